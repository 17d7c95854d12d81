"""Subscriptions of durable sessions: in the store, and known to every worker before SUBACK."""

from __future__ import annotations

from typing import Any

import msgspec

from node.sessions.outbox import Answer, Outbox
from storage.layout import HEADER_BYTES, SessionRecord, Subscription, subscription_key, u64

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Subscription).decode

Change = list[Any]  # [sid, client id, user, filter, options or None: gone, identifier]


class Subscriptions:
    def __init__(self, writer: Any, outbox: Outbox) -> None:
        self._writer, self._outbox = writer, outbox
        self.shared: dict[int, int] = {}  # sid -> its shared subscriptions
        self.shared_count = 0  # of all sessions

    def load(self, stored: list[tuple[int, bytes]]) -> None:
        for sid, value in stored:
            self._count(sid, _decode(value).filter, 1)

    def _count(self, sid: int, filter: str, by: int) -> None:
        if filter.startswith("$share/"):
            self.shared[sid] = self.shared.get(sid, 0) + by
            self.shared_count += by
            if not self.shared[sid]:
                del self.shared[sid]

    def subscribe(self, record: SessionRecord, subscriptions: list[list[Any]], answer: Answer) -> None:
        changes = []
        for filter, options, identifier in subscriptions:
            key = subscription_key(record.sid, filter)
            if self._writer.get("subs", key) is None:
                self._count(record.sid, filter, 1)
            self._writer.put("subs", key, _encode(Subscription(filter, options, identifier)))
            changes.append([record.sid, record.client_id, record.user, filter, options, identifier])
        self.make_known(changes, answer)

    def unsubscribe(self, record: SessionRecord, filters: list[str], answer: Answer) -> None:
        changes = []
        for filter in filters:
            if self._writer.delete("subs", subscription_key(record.sid, filter)):
                self._count(record.sid, filter, -1)
            # Also if it was gone: an earlier keeper may have died before it told the workers
            changes.append([record.sid, record.client_id, record.user, filter, None, 0])
        self.make_known(changes, answer)

    def make_known(self, changes: list[Change], answer: Answer) -> None:
        """`answer` when every worker has applied the changes."""
        if changes:
            self._outbox.ask_all("subs_changed", {"changes": changes}, lambda: answer(True, True))
        else:
            answer(True, True)

    def of(self, record: SessionRecord) -> list[Change]:
        """All of a session's."""
        found = [_decode(self._writer.get("subs", key)) for key in self._writer.keys("subs", u64(record.sid))]
        return [
            [record.sid, record.client_id, record.user, each.filter, each.options, each.identifier] for each in found
        ]

    def stored(self, record: SessionRecord, filters: list[str]) -> list[Change]:
        """How it is with these."""
        changes: list[Change] = []
        for filter in filters:
            value = self._writer.get("subs", subscription_key(record.sid, filter))
            found = None if value is None else _decode(value)
            options, identifier = (found.options, found.identifier) if found else (None, 0)
            changes.append([record.sid, record.client_id, record.user, filter, options, identifier])
        return changes

    def adopt(self, record: SessionRecord) -> list[Change]:
        """Those that came before the record of their session, as if they came now: of what is sent again the record comes last."""
        changes = self.of(record)
        for _, _, _, filter, *_ in changes:
            self._count(record.sid, filter, 1)
        return changes

    def drop(self, sid: int, there: bool = False) -> None:
        """The session is over. `there`: another host has ended it, and deletes what it knows of: should the session go on at a
        third one, that one learns of the end, too, and not of a deletion only."""
        self.shared_count -= self.shared.pop(sid, 0)
        self._writer.say_over(sid)  # before what goes with it, so that a host where it goes on keeps that
        for key in self._writer.keys("subs", u64(sid)):
            if there and self._writer.is_known_there("subs", key):
                self._writer.keep_here("subs", key, None)
            else:
                self._writer.delete("subs", key)

    def inherit(self, heir: SessionRecord, left: list[Change]) -> list[Change]:
        """Those of another session of its client. What it has subscribed to itself stands."""
        changes = []
        for _, _, _, filter, options, identifier in left:
            key = subscription_key(heir.sid, filter)
            if self._writer.get("subs", key) is None:
                self._count(heir.sid, filter, 1)
                self._writer.put("subs", key, _encode(Subscription(filter, options, identifier)))
                changes.append([heir.sid, heir.client_id, heir.user, filter, options, identifier])
        return changes

    def apply(self, record: SessionRecord | None, key: bytes, value: bytes | None) -> list[Change]:
        """What another host has changed."""
        stored = self._writer.get("subs", key)
        self._writer.keep_here("subs", key, value)
        if value is None and stored is None:
            return []
        if record is None and value is None:  # a worker that has read the store since then has it
            return [[int.from_bytes(key[:8], "big"), "", None, _decode(stored).filter, None, 0]]
        if record is None:
            return []
        if value is not None:
            found = _decode(value[HEADER_BYTES:])
            if stored is None:
                self._count(record.sid, found.filter, 1)
            return [[record.sid, record.client_id, record.user, found.filter, found.options, found.identifier]]
        filter = _decode(stored).filter
        self._count(record.sid, filter, -1)
        return [[record.sid, record.client_id, record.user, filter, None, 0]]
