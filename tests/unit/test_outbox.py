"""What the keeper asks others, across its own restart."""

from __future__ import annotations

from typing import Any

from node.sessions.outbox import Outbox


def asked(outbox: Outbox, answers: list[Any]) -> int:
    outbox.ask("peer", "release", {}, lambda ok, result: answers.append(result))
    return int(outbox.take()[-1][2][0])


def test_an_answer_to_the_keeper_before_is_none_to_this_one() -> None:
    """A peer answers `release` when it has handed over: taken for another answer, that was a session without its queue."""
    before, after, answers = Outbox(1), Outbox(1), []  # type: ignore[var-annotated]
    before.began(1_000)
    late = [asked(before, answers) for _ in range(100)]
    after.began(1_001)
    mine = asked(after, answers)
    for number in late:
        after.answered(number, True, "late")
    assert answers == []
    after.answered(mine, True, "mine")
    assert answers == ["mine"]
