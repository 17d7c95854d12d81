"""A client began a session on one side of a cut, and a new one on the other side later, to which nothing older belongs
(estate.py). If that is over when the sides meet, so is the first: else the client would have a session again after
which it had another one.

What a host hears of an end does not say when the session had begun. So who has ended the later one fetches the first,
and ends it, too; but not if the client has come back to it. A host whose keeper has started since does not know: then
the first goes on until it expires.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from node.sessions.fetch import RETRY_MS
from storage.layout import SessionRecord

if TYPE_CHECKING:
    from node.sessions.directory import Directory

KNOWN_MAX = 50_000  # clients: some MB


class Outlived:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        # Client id -> when the last of its new sessions began that have ended here; who ended last comes last
        self._born_ms: dict[str, int] = {}

    def ended(self, record: SessionRecord) -> None:
        if record.is_new:
            self._born_ms[record.client_id] = max(record.created_ms, self._born_ms.pop(record.client_id, 0))
            if len(self._born_ms) > KNOWN_MAX:
                del self._born_ms[next(iter(self._born_ms))]

    def came(self, record: SessionRecord) -> None:
        """From another host; its client had none here."""
        if self._is_over(record):
            self._directory.timers.at(self._directory.now_ms, partial(self._end, record.client_id))

    def _is_over(self, record: SessionRecord | None) -> bool:
        """Has its client not come to it since it began a later one?"""
        return record is not None and record.epoch < self._born_ms.get(record.client_id, 0)

    def _end(self, cid: str, now_ms: int) -> None:
        directory, record = self._directory, self._directory.sessions.get(cid)
        if record is None or not self._is_over(record):
            return
        owner = directory.owners.get(cid)
        if directory.writer.is_settling:
            directory.timers.at(now_ms + RETRY_MS, partial(self._end, cid))
        elif not directory.elsewhere.owns(record):
            again = partial(self._end, cid, now_ms)
            directory.elsewhere.fetch(cid, now_ms, again, lambda: self._is_over(directory.sessions.get(cid)))
        elif owner is None or owner.session is not record:  # else by a CONNECT that lay here for long
            directory.end_session(record, now_ms)
