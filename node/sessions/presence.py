"""Whose clients are connected, at whichever host: workers give a shared subscription's messages to these members first.

Only of durable sessions with a shared subscription; who is live is known from the routes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.sessions.outbox import Link
from storage.layout import SessionRecord

if TYPE_CHECKING:
    from node.sessions.directory import Directory


class Presence:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._changed: set[int] = set()  # sids, by what another host has committed

    def _is_online(self, sid: int) -> bool:
        """Here, or at a host that is not gone."""
        directory = self._directory
        record = directory.by_sid.get(sid)
        if record is None:
            return False
        if record.owner == directory.elsewhere.number:
            return record.client_id in directory.owners
        return record.attached and not directory.elsewhere.is_gone(record.owner)

    def tell(self, record: SessionRecord | None) -> None:
        if record is not None and record.sid in self._directory.subscriptions.shared:
            online = self._is_online(record.sid)
            self._directory.outbox.broadcast("presence", {"sid": record.sid, "online": online})

    def tell_all(self, link: Link) -> None:
        shared = self._directory.subscriptions.shared
        self._directory.outbox.event(link, "present", {"sids": [sid for sid in shared if self._is_online(sid)]})

    def changes(self, sid: int) -> None:
        self._changed.add(sid)

    def tell_changed(self) -> None:
        for sid in self._changed & self._directory.subscriptions.shared.keys():
            self.tell(self._directory.by_sid.get(sid))
        self._changed.clear()

    def host_changed(self, number: int) -> None:
        """It is evicted, or there again."""
        for sid in self._directory.subscriptions.shared:
            record = self._directory.by_sid.get(sid)
            if record is not None and record.owner == number:
                self.tell(record)
