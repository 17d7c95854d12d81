"""Many sessions change their host at once: one that leaves gives its own away, those of one that is removed are taken.

A session is given in two steps: its record names the new owner, and when that commit is on the disks of all hosts in sync, whose
answer the caller has waited for, the owner is told that it may go on. It has when the record comes back with a higher epoch.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from node.sessions.release import is_left_to_us
from storage.layout import META_FORMER, SessionRecord

if TYPE_CHECKING:
    from node.sessions.directory import Directory


RESUME_MS, RESUME_MOST = 500, 1000
GIVEN_MS = 10_000  # more than it takes to say that a session may go on
PROGRESS_MS = 2000  # within which who removes a host takes some of its sessions


class Handover:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._given: list[tuple[SessionRecord, int]] = []  # with its epoch then; not yet taken
        self._to_take: set[int] = set()  # numbers of removed hosts

    def give(self, numbers: list[int], most: int) -> int:
        """Give sessions whose clients are not here to these hosts, evenly; how many they have not taken yet, or clients are about
        to take. To be called until 0, each time when the answer to the last call is there."""
        directory, elsewhere = self._directory, self._directory.elsewhere
        self._given = [each for each in self._given if each[0].epoch == each[1] and self._is_known(each[0])]
        for number, peer in elsewhere.peers.items():
            told = [(record.sid, epoch) for record, epoch in self._given if record.owner == number]
            if told:
                directory.outbox.event(peer, "given", {"sessions": told})
        own = [record for record in directory.sessions.values() if record.owner == elsewhere.number]
        for record in own:
            if is_left_to_us(directory, record):
                elsewhere.own(record, True)
        for record in islice((each for each in own if not self._is_in_use(each)), max(0, most - len(self._given))):
            elsewhere.give(record, numbers[record.sid % len(numbers)])
            self._given.append((record, record.epoch))
        claimed = sum(map(directory.is_claimed, directory.sessions))
        return sum(elsewhere.owns(record) for record in own) + len(self._given) + claimed

    def expect(self, record: SessionRecord) -> None:
        """It was given to us. Should nobody say that it may go on, nor its client fetch it, it does nevertheless: else nothing
        would ever end it. All that its last owner did with it came before its record."""
        again_ms = self._directory.now_ms + GIVEN_MS
        self._directory.timers.at(again_ms, partial(self._look_at_given, record, record.epoch))

    def _look_at_given(self, record: SessionRecord, epoch: int, now_ms: int) -> None:
        directory, elsewhere = self._directory, self._directory.elsewhere
        if record.epoch != epoch or not self._is_known(record):
            return
        if elsewhere.owns(record):  # it had ended here, and another host had it go on as it was before
            directory.look_after(record, now_ms)
        elif is_left_to_us(directory, record) and not directory.writer.is_settling:
            elsewhere.own(record, asked=True)
        else:
            self.expect(record)

    def take(self, number: int, most: int) -> int:
        """Take sessions of a host that is no member any more; how many it still has."""
        directory = self._directory
        theirs = [record for record in directory.sessions.values() if record.owner == number]
        taken = list(islice((each for each in theirs if not self._is_in_use(each)), most))
        for record in taken:
            directory.elsewhere.own(record, asked=False)
        return len(theirs) - len(taken)

    def removed(self, number: int) -> None:
        """A host was removed. Who did that takes its sessions; if it does not go on with that one of us does."""
        self._look_after(number, 0, self._directory.now_ms)

    def _look_after(self, number: int, before: int, now_ms: int) -> None:
        directory = self._directory
        left = sum(record.owner == number for record in directory.sessions.values())
        if number not in directory.elsewhere.removed:
            return
        if not left:
            directory.elsewhere.forgotten(number)
        elif left == before and not directory.writer.is_settling:
            self.take_later(number)
        else:
            directory.timers.at(now_ms + PROGRESS_MS, partial(self._look_after, number, left))

    def take_later(self, number: int) -> None:
        """A host was removed, and a third one brings what it did last: one of us takes that, too."""
        if number not in self._to_take:
            self._to_take.add(number)
            self._directory.timers.at(self._directory.now_ms + RESUME_MS, partial(self._take_late, number))

    def _take_late(self, number: int, now_ms: int) -> None:
        self._to_take.discard(number)
        if not self._directory.elsewhere.is_first():
            self._look_after(number, 0, now_ms)  # the first host may have died before it took them
        elif self.take(number, RESUME_MOST):
            self.take_later(number)
        else:
            self._look_after(number, 0, now_ms)

    def resume(self, now_ms: int) -> None:
        """Take what was ours under numbers that this store had before it was found to be an old copy, once what the other hosts
        know of it is here."""
        directory = self._directory
        former = directory.writer.get("meta", META_FORMER)
        if former is None:
            return
        if directory.elsewhere.has_all():
            numbers = [int.from_bytes(former[at : at + 8], "big") for at in range(0, len(former), 8)]
            if not sum([self.take(number, RESUME_MOST) for number in numbers]):
                directory.writer.delete("meta", META_FORMER)
                return
        directory.timers.at(now_ms + RESUME_MS, self.resume)

    def _is_known(self, record: SessionRecord) -> bool:
        return self._directory.by_sid.get(record.sid) is record

    def _is_in_use(self, record: SessionRecord) -> bool:
        return record.client_id in self._directory.owners or self._directory.is_claimed(record.client_id)
