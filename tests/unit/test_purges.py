"""What an ended member of a shared subscription has left is given to other members, by one host."""

from __future__ import annotations

from typing import Any

import pytest

from node.sessions.outbox import Outbox
from node.sessions.purges import LEFT_MS, RETRY_MS, Purges
from node.sessions.timers import Timers
from storage.layout import SessionRecord

SID, STEP_MS = 7, 100


class Store:
    """The writer of a session's messages, all of them shared."""

    def __init__(self) -> None:
        self.late: set[int] = set()
        self.over: set[int] = set()
        self.answered: list[tuple[int, int]] = []
        self.left = list(range(1, 1000))
        self.looks = 0

    def note_over(self, sid: int) -> None: ...

    def purge(self, sid: int, most: int, sent_qseq: int) -> tuple[bool, list[Any]]:
        self.looks += 1
        return False, [(number, "group/topic", b"", None) for number in self.left]


class Host:
    def __init__(self) -> None:
        self.now_ms, self.store, self.timers, self.outbox = 1000, Store(), Timers(), Outbox(1)
        self.outbox.links = ["worker"]
        self.purges = Purges(self.store, self.timers, self.outbox, (), lambda: True)

    def ended(self, here: bool) -> None:
        self.purges.add(SessionRecord(SID, "it", None, 0, 0, False, 0, 0, 0), here)

    def step(self) -> list[int]:
        """A turn of the keeper; the numbers that a worker is asked to give to others."""
        self.now_ms += STEP_MS
        self.timers.run(self.now_ms)
        self.purges.step(self.now_ms)
        return [arguments["qseq"] for _, _, (_, arguments) in self.outbox.take()]


@pytest.fixture
def host() -> Host:
    return Host()


def test_as_long_as_another_host_gives_them_away_it_is_left_to_that(host: Host) -> None:
    """Else two members would get the same message."""
    host.ended(here=False)
    for _ in range(4 * LEFT_MS // STEP_MS):
        host.store.left.pop(0)
        assert not host.step()
    asked = [number for _ in range((LEFT_MS + 2 * RETRY_MS) // STEP_MS) for number in host.step()]
    assert asked == host.store.left, "it does not go on"


def test_nobody_delivers_what_has_ended_though_its_turn_has_not_come(host: Host) -> None:
    """What comes meanwhile from another host's inbox that host gives to others: numbered here it would be given away twice."""
    host.ended(here=True)
    assert host.store.over == {SID}
    assert host.store.looks == 0


def test_a_session_is_looked_at_as_often_however_many_of_its_messages_were_moved(host: Host) -> None:
    host.ended(here=True)
    for _ in range(20):  # those that were asked for are moved, and others are next
        host.step()
        host.store.answered += [(SID, number) for number in host.store.left]
        host.store.left = [number + 1000 for number in host.store.left]
    host.store.looks = 0
    for _ in range(10 * RETRY_MS // STEP_MS):
        host.step()
    assert host.store.looks <= 12
