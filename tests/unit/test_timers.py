"""What is due at a time."""

from __future__ import annotations

from node.sessions.timers import AT_ONCE, Timers


def test_many_that_are_due_at_once_are_done_in_turns_and_in_order() -> None:
    """Between these the keeper's heart beats."""
    timers, done = Timers(), []
    for number in range(AT_ONCE + 5):
        timers.at(10, lambda _, number=number: done.append(number))  # type: ignore[misc]
    timers.run(10)
    assert done == list(range(AT_ONCE))
    assert timers.next_ms == 10
    timers.run(10)
    assert done == list(range(AT_ONCE + 5))
    assert timers.next_ms is None


def test_what_an_action_plans_for_the_same_time_waits_for_the_next_turn() -> None:
    timers, done = Timers(), []
    timers.at(10, lambda now_ms: timers.at(now_ms, done.append))
    timers.run(10)
    assert done == []
    timers.run(10)
    assert done == [10]
