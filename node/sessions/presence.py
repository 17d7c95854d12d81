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

    def tell(self, *records: SessionRecord | None) -> None:
        """Of many in one event: a host that goes may have a hundred thousand, and each worker is told."""
        shared = self._directory.subscriptions.shared
        sids = [record.sid for record in records if record is not None and record.sid in shared]
        if sids:
            online = set(filter(self._is_online, sids))
            offline = [sid for sid in sids if sid not in online]
            self._directory.outbox.broadcast("presence", {"online": list(online), "offline": offline})

    def tell_all(self, link: Link) -> None:
        shared = self._directory.subscriptions.shared
        self._directory.outbox.event(link, "present", {"sids": [sid for sid in shared if self._is_online(sid)]})

    def changes(self, sid: int) -> None:
        self._changed.add(sid)

    def tell_changed(self) -> None:
        self.tell(*map(self._directory.by_sid.get, self._changed))
        self._changed.clear()

    def host_changed(self, number: int) -> None:
        """It is evicted, or there again."""
        records = map(self._directory.by_sid.get, self._directory.subscriptions.shared)
        self.tell(*(record for record in records if record is not None and record.owner == number))
