"""The other hosts as the keeper knows them: their numbers, and of whom it does not know yet whether they are there."""

from __future__ import annotations

from collections.abc import Collection

from node.sessions.elsewhere import Elsewhere
from storage.layout import META_NODE, u64
from storage.writer import Writer


class Members:
    def __init__(self, writer: Writer, elsewhere: Elsewhere) -> None:
        self._writer, self._elsewhere = writer, elsewhere
        self._ids: set[bytes] = set()
        self._expected: set[bytes] | None = None  # None: nobody has said yet who they are

    def are(self, ids: Collection[bytes]) -> None:
        self._expected = (self._expected or set()) | (set(ids) - self._ids)
        self._ids = set(ids)
        self._look()

    def number_of(self, node_id: bytes) -> int:
        """0 if it has never said."""
        return int.from_bytes(self._writer.get("meta", META_NODE + node_id) or b"", "big")

    def numbered(self, node_id: bytes, number: int) -> None:
        if self.number_of(node_id) != number:
            self._writer.put("meta", META_NODE + node_id, u64(number))
        self._ids.add(node_id)
        self._look()

    def left(self, node_id: bytes) -> None:
        self._ids.discard(node_id)
        self._look()

    def _look(self) -> None:
        numbers = {self.number_of(node_id) for node_id in self._ids}
        self._elsewhere.members = numbers - {0}
        self._elsewhere.are_all_known = 0 not in numbers

    @property
    def are_told(self) -> bool:
        return self._expected is not None

    @property
    def expected(self) -> set[bytes]:
        """Of them we do not know yet whether they are there, or not all that they have is here."""
        return set() if self._expected is None else self._expected
