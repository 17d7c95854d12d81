"""Wills, from the CONNECT that brought them to the commit of their publish. They are in the store: whoever dies, they fire once.

A will is fired by a worker, whose publish names its id; the writer lets that happen once (storage/writer.pyx). Until it is
committed it is asked for again. The will of a client whose host is gone is fired by one of the hosts that are there, the first
one; the others have it until that one's commit says that it is over, or become the first one themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from node.sessions.outbox import Outbox
from node.sessions.timers import Timers
from storage.layout import NUMBER_BITS, WillRecord, u64

RETRY_MS = 2000

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(WillRecord).decode


class Wills:
    def __init__(self, writer: Any, timers: Timers, outbox: Outbox, is_first: Callable[[], bool]) -> None:
        """`is_first()`: is this host the one that does what one of the hosts that are there has to do?"""
        self._writer = writer
        self._timers = timers
        self._outbox = outbox
        self._is_first = is_first
        self._wills: dict[int, WillRecord] = {}
        self._due_ms: dict[int, int] = {}  # will id -> when to ask (again); without an entry its client is connected
        self._firing: set[int] = set()  # wills that a worker was asked to publish
        # Of these, those whose worker has not answered: it hears of it when peers have confirmed
        self._asked: set[int] = set()
        self._left: set[int] = set()  # those that are due because a host is gone
        self._of: dict[str, list[int]] = {}  # client id -> will ids

    def __len__(self) -> int:
        return len(self._wills)

    def load(self, stored: list[tuple[int, bytes]]) -> None:
        for will_id, value in stored:
            self._keep(will_id, _decode(value))

    def _keep(self, will_id: int, will: WillRecord) -> None:
        self._wills[will_id] = will
        self._of.setdefault(will.client_id, []).append(will_id)

    def new(self, client_id: str, delay_s: int, record: bytes) -> int:
        will = WillRecord(client_id, delay_s, record)
        for known in self._of.get(client_id, ()):
            if self._wills[known] == will and known not in self._due_ms:
                return known  # an earlier keeper granted the claim and died before it said so: the record says when it came
        will_id: int = self._writer.new_will_id()
        self._keep(will_id, will)
        self._writer.put("wills", u64(will_id), _encode(will))
        return will_id

    def connected(self, client_id: str, number: int) -> int:
        """After our restart the client is still connected at this host, of that number; the id of its will, 0 without one."""
        will_id = max((each for each in self._of.get(client_id, ()) if each >> NUMBER_BITS == number), default=0)
        self._due_ms.pop(will_id, None)
        return will_id

    def returned(self, client_id: str, now_ms: int, at: int = 0) -> None:
        """The client is back before its will's delay was over, `at` the host of that number, or here: then its last connection is
        over, too, wherever that was; its host may have died, and could not say so."""
        if client_id not in self._of:
            return
        for will_id in list(self._of[client_id]):
            if will_id >> NUMBER_BITS == at:
                continue  # that host knows whether it is of that connection, or of an earlier one
            due_ms = self._due_ms.get(will_id)
            is_early = due_ms > now_ms if due_ms is not None else not at and self._wills[will_id].delay_s > 0
            if will_id not in self._firing and is_early:
                self.drop(will_id)  # [MQTT-3.1.3-9]

    def said_goodbye(self, client_id: str, number: int, present: int) -> None:
        """The client, over a connection before its `present` will's: the keeper was away meanwhile, and hears of that one first."""
        for will_id in list(self._of.get(client_id, ())):
            if will_id >> NUMBER_BITS == number and will_id != present and will_id not in self._due_ms:
                self.drop(will_id)  # [MQTT-3.14.4-3]

    def drop(self, will_id: int) -> None:
        if will_id in self._wills:
            self.fired(will_id)
            self._writer.delete("wills", u64(will_id))

    def gone(self, will_id: int, now_ms: int, grace_ms: int) -> None:
        """The connection is lost: the will is due after its delay, and after `grace_ms` at least."""
        will = self._wills.get(will_id)
        if will is not None:
            self._due(will_id, now_ms + max(will.delay_s * 1000, grace_ms))

    def session_ended(self, client_id: str, now_ms: int) -> None:
        for will_id in self._of.get(client_id, ()):
            if will_id not in self._firing and self._due_ms.get(will_id, now_ms) > now_ms:
                self._left.discard(will_id)
                self._due(will_id, now_ms)  # [MQTT-3.1.2-8]

    def orphaned(self, number: int, owned: set[int], is_elsewhere: Callable[[str], bool], now_ms: int) -> None:
        """After a restart: those of this host whose clients no worker has. Who `is_elsewhere` may have been let in by a host that
        had not heard of its will: that could not drop it."""
        for will_id, will in list(self._wills.items()):
            if will_id >> NUMBER_BITS == number and will_id not in owned and will_id not in self._due_ms:
                if will.delay_s > 0 and is_elsewhere(will.client_id):
                    self.drop(will_id)  # [MQTT-3.1.3-9]
                else:
                    self.gone(will_id, now_ms, 0)

    def hosts(self) -> set[int]:
        """The numbers of those whose clients brought them."""
        return {will_id >> NUMBER_BITS for will_id in self._wills}

    def adopt(self, will_id: int, will: WillRecord) -> None:
        """Of a client of another host."""
        if will_id not in self._wills:
            self._keep(will_id, will)

    def lost(self, client_id: str, now_ms: int) -> None:
        """The host that had the client cannot be asked: its connection there counts as lost."""
        for will_id in list(self._of.get(client_id, ())):
            if will_id not in self._due_ms:
                self.gone(will_id, now_ms, 0)

    def host_gone(self, number: int, now_ms: int, grace_ms: int) -> None:
        """Its clients may come back elsewhere; they have `grace_ms`."""
        for will_id in self._wills:
            if will_id >> NUMBER_BITS == number:
                self.left(will_id, now_ms, grace_ms)

    def left(self, will_id: int, now_ms: int, grace_ms: int) -> None:
        """Its client's host is gone."""
        if will_id not in self._due_ms:
            self._left.add(will_id)
            self.gone(will_id, now_ms, grace_ms)

    def host_back(self, number: int) -> None:
        """It knows better which of its clients are connected."""
        for will_id in [each for each in self._left if each >> NUMBER_BITS == number and each not in self._firing]:
            self._left.discard(will_id)
            self._due_ms.pop(will_id, None)

    def fired(self, will_id: int) -> None:
        """Its publish is part of this turn's commit."""
        will = self._wills.pop(will_id, None)
        self._due_ms.pop(will_id, None)
        self._firing.discard(will_id)
        self._left.discard(will_id)
        if will is not None:
            ids = self._of[will.client_id]
            ids.remove(will_id)
            if not ids:
                del self._of[will.client_id]

    def _due(self, will_id: int, due_ms: int) -> None:
        self._due_ms[will_id] = due_ms
        self._timers.at(due_ms, lambda now_ms: self._fire(will_id, now_ms))

    def _fire(self, will_id: int, now_ms: int) -> None:
        will = self._wills.get(will_id)
        if will is None or will_id not in self._due_ms or self._due_ms[will_id] > now_ms:
            return
        self._due(will_id, now_ms + RETRY_MS)  # until its publish has been committed
        links = self._outbox.links
        if links and will_id not in self._asked and (will_id not in self._left or self._is_first()):
            self._firing.add(will_id)
            self._asked.add(will_id)
            arguments = {"will_id": will_id, "cid": will.client_id, "record": will.record}
            self._outbox.ask(
                links[will_id % len(links)], "publish_will", arguments, lambda ok, result: self._asked.discard(will_id)
            )
