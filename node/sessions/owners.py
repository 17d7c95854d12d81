"""Which connection has which client id: looks like a dict of Owners, and holds each plain client as one int.

Plain is who has a live session and no will. There may be a million of them, and the keeper has one entry for each.
"""

from __future__ import annotations

import msgspec

from node.sessions.outbox import Link
from storage.layout import SessionRecord

TAKEN_OVER = 0x8E  # why a connection ends: its client has a later one
_NUMBER_BITS, _PLACE_BITS = 48, 8  # of an int: the connection's number, the place of its link, above them `at_ms`
_AT_SHIFT = _NUMBER_BITS + _PLACE_BITS


class Owner(msgspec.Struct, frozen=True, gc=False):
    """The live connection of a client id."""

    link: Link
    connection: int
    session: SessionRecord | None
    will_id: int
    at_ms: int  # 0 if there is no other host

    def is_same(self, other: Owner | None) -> bool:
        return other is not None and other.link is self.link and other.connection == self.connection


class Owners:
    def __init__(self) -> None:
        self._entries: dict[str, Owner | int] = {}
        self._links: list[Link] = []  # None: a free place
        self._places: dict[Link, int] = {}

    def __contains__(self, cid: str) -> bool:
        return cid in self._entries

    def __getitem__(self, cid: str) -> Owner:
        return self._unpacked(self._entries[cid])

    def __setitem__(self, cid: str, owner: Owner) -> None:
        if owner.session is not None or owner.will_id:
            self._entries[cid] = owner
        else:
            self.put_plain(cid, owner.link, owner.connection, owner.at_ms)

    def put_plain(self, cid: str, link: Link, connection: int, at_ms: int) -> None:
        """The owner has neither session nor will."""
        assert connection >> _NUMBER_BITS == 0
        place = self._places.get(link)
        if place is None:
            place = self._place(link)
        self._entries[cid] = (at_ms << _PLACE_BITS | place) << _NUMBER_BITS | connection

    def __delitem__(self, cid: str) -> None:
        del self._entries[cid]

    def get(self, cid: str) -> Owner | None:
        found = self._entries.get(cid)
        return None if found is None else self._unpacked(found)

    def will_ids(self) -> set[int]:
        return {found.will_id for found in self._entries.values() if not isinstance(found, int)}

    def since(self, ms: int) -> list[str]:
        """The client ids that connected then or later."""

        def at_ms(found: Owner | int) -> int:
            return found >> _AT_SHIFT if isinstance(found, int) else found.at_ms

        return [cid for cid, found in self._entries.items() if at_ms(found) >= ms]

    def at(self, link: Link) -> list[str]:
        """The client ids whose connections this worker has."""
        return [cid for cid, found in self._entries.items() if self._unpacked(found).link is link]

    def left(self, link: Link) -> None:
        """It is gone, and so are its clients."""
        if link in self._places:
            self._links[self._places.pop(link)] = None

    def _place(self, link: Link) -> int:
        """A new one, the first that is free."""
        if None not in self._links:
            assert len(self._links) < 1 << _PLACE_BITS
            self._links.append(None)
        place = self._places[link] = self._links.index(None)
        self._links[place] = link
        return place

    def _unpacked(self, found: Owner | int) -> Owner:
        if isinstance(found, Owner):
            return found
        above, connection = found >> _NUMBER_BITS, found & (1 << _NUMBER_BITS) - 1
        return Owner(self._links[above & (1 << _PLACE_BITS) - 1], connection, None, 0, above >> _PLACE_BITS)
