"""What may be acknowledged, as peers come, confirm and go (mesh/replication.py)."""

from __future__ import annotations

from mesh.replication import TIMES_MAX, Replication, Times


def in_sync(strict: bool) -> Replication:
    """At commit 5, which the peer "b" has."""
    found = Replication(3, strict)
    found.committed(5)
    found.opened("b", 3)
    found.sent("b", 5, 10)
    found.acknowledged("b", 5)
    assert (found.in_sync, found.released) == (1, 5)
    return found


def test_a_commit_waits_for_the_peer_in_sync() -> None:
    for strict in (False, True):
        found = in_sync(strict)
        found.committed(6)
        assert found.released == 5
        found.broken("b")
        assert found.released == 5
        found.opened("b", 5)
        found.sent("b", 6, 1)
        found.acknowledged("b", 6)
        assert found.released == 6


def test_alone_it_goes_on_unless_it_is_strict() -> None:
    for strict, released in ((False, 8), (True, 5)):
        found = in_sync(strict)
        found.committed(7)
        found.evicted("b")
        found.committed(8)
        found.evicted("b")  # said again
        assert found.released == released
        found.opened("b", 5)
        found.sent("b", 7, 1)
        found.acknowledged("b", 7)
        assert (found.in_sync, found.released) == (0, 5 if strict else 7), "it does not have all, and is waited for"
        found.sent("b", 8, 1)
        found.acknowledged("b", 8)
        assert (found.in_sync, found.released) == (1, 8)


def test_a_strict_host_that_starts_knows_of_no_copy() -> None:
    assert Replication(5, True).released == 0
    assert Replication(5).released == 5


def test_one_of_two_peers_is_enough_for_a_strict_host() -> None:
    found = in_sync(True)
    found.opened("c", 5)
    found.committed(6)
    found.evicted("b")
    assert found.released == 5
    found.sent("c", 6, 1)
    found.acknowledged("c", 6)
    assert found.released == 6


def test_lag_is_the_age_of_the_first_commit_that_is_missing() -> None:
    times = Times()
    assert times.lag_ms(0, 50) == 0
    times.committed(1, 100, 0)
    times.committed(2, 110, 0)
    times.committed(3, 1000, 0)
    times.committed(4, 1010, 0)
    assert times.lag_ms(4, 5000) == 0
    assert times.lag_ms(3, 5000) == 5000 - 1010
    assert times.lag_ms(2, 5000) == 4000
    assert times.lag_ms(0, 5000) == 4900


def test_times_are_few_however_long_a_peer_is_away() -> None:
    times, last = Times(), 20 * TIMES_MAX
    for number in range(1, last + 1):
        times.committed(number, number * 100, 7)
    assert len(times._points) <= TIMES_MAX
    now_ms = last * 100
    for has in (last - 1, last - 100, last // 2, 7):
        assert abs(now_ms - (has + 1) * 100 - times.lag_ms(has, now_ms)) <= now_ms / (TIMES_MAX / 4), has
    times.committed(last + 1, now_ms + 100, last)
    assert times._points == [(last + 1, now_ms + 100)]
