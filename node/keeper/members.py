"""The other hosts as the keeper knows them: their numbers, and of whom it does not know yet whether they are there."""

from __future__ import annotations

from collections.abc import Collection

from node.sessions.elsewhere import Elsewhere
from storage.layout import META_NODE, u64
from storage.writer import Writer


class Members:
    def __init__(self, writer: Writer, elsewhere: Elsewhere, evicted: Collection[bytes]) -> None:
        self._writer, self._elsewhere, self._evicted = writer, elsewhere, evicted
        self._ids: set[bytes] = set()
        self._expected: set[bytes] | None = None  # None: nobody has said yet who they are
        self.are_unknown = False  # nobody has said it in time: the host serves, and its copies may be missing

    def are(self, ids: Collection[bytes]) -> None:
        self.are_unknown = False
        self._expected = (self._expected or set()) | (set(ids) - self._ids)
        self._ids = set(ids)
        self.look()

    def number_of(self, node_id: bytes) -> int:
        """0 if it has never said."""
        return int.from_bytes(self._writer.get("meta", META_NODE + node_id) or b"", "big")

    def numbered(self, node_id: bytes, number: int) -> None:
        if self.number_of(node_id) != number:
            self._writer.put("meta", META_NODE + node_id, u64(number))
        self._ids.add(node_id)
        self.look()

    def left(self, node_id: bytes) -> None:
        self._elsewhere.removed |= {self.number_of(node_id)} - {0}
        self._ids.discard(node_id)
        self.look()

    def look(self) -> None:
        """Also when one was evicted, or is up again. A number that no member has said is one's that may come, unless all who
        have said none are evicted."""
        elsewhere, numbers = self._elsewhere, {node_id: self.number_of(node_id) for node_id in self._ids}
        elsewhere.members = set(numbers.values()) - {0}
        elsewhere.removed -= elsewhere.members
        elsewhere.are_all_known = all(number or node_id in self._evicted for node_id, number in numbers.items())
        if all(map(self.number_of, self._evicted)):
            elsewhere.evicted.discard(0)  # it stood for those who had said none
        others = elsewhere.members - {elsewhere.number}
        self._writer.place = sum(number < elsewhere.number for number in others)
        self._writer.hosts = 1 + len(others)

    @property
    def are_told(self) -> bool:
        return self._expected is not None

    @property
    def expected(self) -> set[bytes]:
        """Of them we do not know yet whether they are there, or not all that they have is here."""
        return set() if self._expected is None else self._expected

    @property
    def may_return(self) -> bool:
        """May one that was removed join again, with the disk that it had?"""
        return bool(self._elsewhere.removed - self._elsewhere.retired)
