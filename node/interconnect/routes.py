"""Which of several places have which filters and members of shared groups. Pure: ROUTES frames in, ROUTES frames out.

A place is a worker of this host, or another host; what it announces are the records of a ROUTES frame (node/core/links.pxi). Of
several places the outside sees one: the first that has a filter and the last that loses it are told, and groups by their sums.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from node.core.topics import TopicTree

GONE, THERE, MEMBERS = 0, 1, 2
COUNT_MAX = 65535
TOPICS_MAX = 65536  # of which we remember the places
_RECORD = struct.Struct("<BHHH")

Place = TypeVar("Place", bound=Hashable)


class _Group(Generic[Place]):
    def __init__(self) -> None:
        self.members: dict[Place, tuple[int, int]] = {}  # those that any message reaches, and those by QoS 0 only
        self.cursor = 0

    def sums(self) -> tuple[int, int]:
        live, durable = (sum(counts) for counts in zip(*self.members.values(), strict=True)) if self.members else (0, 0)
        return min(live, COUNT_MAX), min(durable, COUNT_MAX)


class Routes(Generic[Place]):
    def __init__(self) -> None:
        self._tree = TopicTree()
        self._places: dict[bytes, dict[Place, None]] = {}
        self._groups: dict[bytes, _Group[Place]] = {}
        self._known: dict[bytes, tuple[Place, ...]] = {}

    # -- routes -------------------------------------------------------------------------------------------------------------

    def change(self, place: Place, announced: bytes) -> list[bytes]:
        """What `place` announced is so from now on; the records that the outside has to be told."""
        told: list[bytes] = []
        for kind, name, counts in _records(announced):
            told += self._members(place, name, counts) if kind == MEMBERS else self._filter(place, name, kind == THERE)
        return told

    def forget(self, place: Place) -> list[bytes]:
        """The place is gone; the records that the outside has to be told."""
        told: list[bytes] = []
        for name in [name for name, places in self._places.items() if place in places]:
            told += self._filter(place, name, False)
        for name in [name for name, group in self._groups.items() if place in group.members]:
            told += self._members(place, name, (0, 0))
        return told

    def everything(self) -> Iterator[bytes]:
        """The records for somebody who knows nothing yet."""
        for name in self._places:
            yield _record(THERE, name)
        for name, group in self._groups.items():
            yield _record(MEMBERS, name, group.sums())

    def _filter(self, place: Place, name: bytes, there: bool) -> list[bytes]:
        places = self._places.setdefault(name, {})
        had = bool(places)
        if there and place not in places:
            places[place] = None
            self._tree.subscribe(place, name, 0)
            self._known.clear()
        elif not there and place in places:
            del places[place]
            self._tree.unsubscribe(place, name)
            self._known.clear()
        if not places:
            del self._places[name]
        return [] if had == bool(places) else [_record(THERE if places else GONE, name)]

    def _members(self, place: Place, name: bytes, counts: tuple[int, int]) -> list[bytes]:
        group = self._groups.setdefault(name, _Group())
        before = group.sums()
        group.members.pop(place, None)
        if any(counts):
            group.members[place] = counts
        if not group.members:
            del self._groups[name]
        after = group.sums()
        return [] if before == after else [_record(MEMBERS, name, after)]

    # -- messages -----------------------------------------------------------------------------------------------------------

    def places_of(self, topic: bytes) -> tuple[Place, ...]:
        """Those with a filter that matches, each once."""
        found = self._known.get(topic)
        if found is None:
            if len(self._known) >= TOPICS_MAX:
                self._known.clear()
            found = self._known[topic] = tuple(place for place, _, _ in self._tree.matches(topic))
        return found

    def all_of(self, topic: bytes) -> set[Place]:
        """Those with a filter that matches, their own or that of a shared group; for people, not for messages."""
        tree = TopicTree()
        for name, group in self._groups.items():
            for place in group.members:
                tree.subscribe(place, name.partition(b"/")[2], 0)
        return {*self.places_of(topic), *(place for place, _, _ in tree.matches(topic))}

    def member_of(self, name: bytes, qos: int) -> tuple[Place, ...]:
        """The place whose member of a shared group has its turn; none if nobody is there."""
        group = self._groups.get(name)
        if group is None:
            return ()
        counts = {place: live + (0 if qos else durable) for place, (live, durable) in group.members.items()}
        total = sum(counts.values())
        if total == 0:
            return ()
        group.cursor += 1
        turn = group.cursor % total
        for place, count in counts.items():
            if turn < count:
                return (place,)
            turn -= count
        raise AssertionError("a turn beyond all members")


def _record(kind: int, name: bytes, counts: tuple[int, int] = (0, 0)) -> bytes:
    return _RECORD.pack(kind, len(name), *counts) + name


def _records(announced: bytes) -> Iterator[tuple[int, bytes, tuple[int, int]]]:
    at = 0
    while at < len(announced):
        kind, length, live, durable = _RECORD.unpack_from(announced, at)
        at += _RECORD.size
        yield kind, announced[at : at + length], (live, durable)
        at += length
