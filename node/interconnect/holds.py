"""Topics whose publishers have to wait for a slow subscriber at one of several places, merged. Pure: HOLD frames in and out.

A HOLD frame is a topic; an empty one ends all of its sender's (node/core/links.pxi).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Place = TypeVar("Place", bound=Hashable)


class Holds(Generic[Place]):
    def __init__(self) -> None:
        self._by_place: dict[Place, set[bytes]] = {}

    def change(self, place: Place, topic: bytes) -> list[bytes]:
        """What the outside has to be told after this frame of `place`, frame by frame."""
        before = self.topics()
        if topic:
            self._by_place.setdefault(place, set()).add(topic)
        else:
            self._by_place.pop(place, None)
        after = self.topics()
        return list(after - before) if after >= before else [b"", *after]

    def topics(self) -> set[bytes]:
        return set().union(*self._by_place.values())
