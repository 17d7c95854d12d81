"""A client began a session on each side of a cut, or at two hosts before they were one cluster: one of the two counts, and gets
what the other one has: its subscriptions, its messages, the packet ids of QoS 2 messages that the client has not released.

Only the host that delivers the session which ends does this, in the commit in which it learns of the other one: when other hosts
hear that its queue is gone, they have what became of it. So does one that has handed it over to a host which did not know yet.
Others leave only what their own publishers sent for it: should that host not have had it yet, nobody else would.
Whoever sees first that neither knew of the other, a third host perhaps, says so in the heir's record (`inherits`). A session that
its client asked to be new inherits nothing older. What workers send for the session that has ended, before they hear of that or
after their keeper was away, becomes the heir's, too (`Writer.heirs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage.layout import SessionRecord, u64

if TYPE_CHECKING:
    from node.sessions.directory import Directory


def is_heir(heir: SessionRecord, former: SessionRecord) -> bool:
    return heir.user == former.user and not (heir.is_new and heir.created_ms >= former.created_ms)


def unite(heir: SessionRecord, other: SessionRecord) -> bool:
    """`heir` counts, of two records whose hosts did not know of each other's. Does it say more now?"""
    sids = [*other.inherits, other.sid] if other.sid == heir.sid or is_heir(heir, other) else []
    more = [sid for sid in sids if sid != heir.sid and sid not in heir.inherits]
    heir.inherits = heir.inherits + more
    return bool(more)


class Estate:
    """Of a session that is about to end here."""

    def __init__(self, directory: Directory, former: SessionRecord, is_ours: bool) -> None:
        self._directory, self._former, self._is_ours = directory, former, is_ours
        self._subscriptions = directory.subscriptions.of(former)

    def leave(self, heir: SessionRecord) -> list[list[Any]]:
        """To the client's other session; returns the changes of subscriptions that workers have to be told."""
        writer = self._directory.writer
        writer.bequeath(self._former.sid, heir.sid, self._is_ours)
        if not self._is_ours:
            return []
        for key in writer.keys("packet_ids", u64(self._former.sid)):
            if writer.get("packet_ids", u64(heir.sid) + key[8:]) is None:
                writer.put("packet_ids", u64(heir.sid) + key[8:], writer.get("packet_ids", key))
        return self._directory.subscriptions.inherit(heir, self._subscriptions)
