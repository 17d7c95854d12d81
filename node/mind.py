"""The keeper's decisions: who owns which client id, what outlives a connection, and when it ends.

One turn: requests and link changes go in by `request`, `event`, `worker_came`, `worker_left` and `tick`; what has to be
sent is in `outbox` afterwards, as (worker link, frame kind, message), and may leave only when the turn is committed. Writes go
to the Writer whose transaction is open. Time is an argument (store clock, ms); no socket, no random, no LMDB of its own.

A client id is owned by at most one connection (`owners`). A claim of an owned id waits until the owner's worker has ended it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from storage.layout import SessionRecord, Subscription, WillRecord, client_key, subscription_key, u64

NEVER = 0xFFFFFFFF
WORKER_GRACE_MS = 2000  # a worker that died: its clients may come back elsewhere before their wills fire
RESTART_GRACE_MS = 3000  # after the keeper's own start: for workers to say whom they have
WILL_RETRY_MS = 2000
PURGE_ENTRIES = 2000  # of ended sessions, in one commit

REQUEST, REPLY, EVENT = 4, 5, 6
TAKEN_OVER, KICKED = 0x8E, 0x98

Link = Any  # whatever the process around calls a worker's link; only compared
Answer = Callable[[bool, Any], None]

_encode = msgspec.msgpack.encode
_decode_session = msgspec.msgpack.Decoder(SessionRecord).decode
_decode_will = msgspec.msgpack.Decoder(WillRecord).decode
_decode_subscription = msgspec.msgpack.Decoder(Subscription).decode


class Owner:
    """The live connection of a client id."""

    __slots__ = ("connection", "link", "session", "will_id")

    def __init__(self, link: Link, connection: int, session: SessionRecord | None, will_id: int) -> None:
        self.link = link
        self.connection = connection
        self.session = session
        self.will_id = will_id


class Mind:
    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.outbox: list[tuple[Link, int, Any]] = []
        self.links: list[Link] = []
        self.owners: dict[str, Owner] = {}
        self.sessions: dict[str, SessionRecord] = {}
        self.by_sid: dict[int, SessionRecord] = {}
        self.wills: dict[int, WillRecord] = {}
        self.shared: dict[int, int] = {}  # sid -> its shared subscriptions
        self.tally: dict[str, int] = {}
        self._claims: dict[str, deque[tuple[Link, dict[str, Any], Answer]]] = {}
        self._asked: dict[int, tuple[Link, Answer]] = {}
        self._next_request = 0
        self._timers: list[tuple[int, int, Callable[[int], None]]] = []
        self._timer_number = 0
        self._purges: deque[SessionRecord] = deque()
        self._due_wills: dict[int, int] = {}  # will id -> when to ask (again)
        self._firing: set[int] = set()  # wills that a worker was asked to publish
        self._wills_of: dict[str, list[int]] = {}  # client id -> will ids

    # -- start ----------------------------------------------------------------------------------------------------------

    def load(self, sessions: list[bytes], wills: list[tuple[int, bytes]], subscriptions: list[tuple[int, bytes]],
             now_ms: int) -> None:  # fmt: skip
        """What the store has; who is attached shows when the workers have said HELLO."""
        for value in sessions:
            record = _decode_session(value)
            self._keep(record)
            self.writer.queue_of(record.sid)
        for will_id, value in wills:
            self._keep_will(will_id, _decode_will(value))
        for sid, value in subscriptions:
            if _decode_subscription(value).filter.startswith("$share/"):
                self.shared[sid] = self.shared.get(sid, 0) + 1
        known = set(self.by_sid)
        for sid in [sid for sid in self.writer.queues if sid not in known]:
            self._purges.append(SessionRecord(sid, "", None, 0, 0, False, 0, 0, 0))
        self._later(now_ms + RESTART_GRACE_MS, self._after_restart)

    def _after_restart(self, now_ms: int) -> None:
        for record in list(self.sessions.values()):
            owner = self.owners.get(record.client_id)
            if owner is None or owner.session is not record:
                if record.attached:
                    self._detached(record, record.expiry_s, record.sent_qseq, now_ms)
                else:
                    self._expire_later(record)
        owned = {owner.will_id for owner in self.owners.values()}
        for will_id in self.wills:
            if will_id not in owned and will_id not in self._due_wills:
                self._will_due(will_id, now_ms)

    # -- links ----------------------------------------------------------------------------------------------------------

    def worker_came(self, link: Link, clients: list[list[Any]], now_ms: int) -> None:
        """A worker said HELLO: these clients are its own still."""
        self.links.append(link)
        for cid, connection, sid in clients:
            record = self.by_sid.get(sid)
            will_id = max(self._wills_of.get(cid, ()), default=0)
            self.owners[cid] = Owner(link, connection, record, will_id)
            self._due_wills.pop(will_id, None)
            if record is not None:
                self.writer.wake(self.writer.queue_of(sid))  # what came while no worker had the session
        for sid in self.shared:
            record = self.by_sid.get(sid)
            if record is not None and record.client_id in self.owners:
                self._send(link, EVENT, ["presence", {"sid": sid, "online": True}])

    def worker_left(self, link: Link, now_ms: int) -> None:
        """Its link is lost: its clients are gone, unless they come back soon."""
        if link in self.links:
            self.links.remove(link)
        for number in [number for number, (to, _) in self._asked.items() if to is link]:
            _, answer = self._asked.pop(number)
            answer(True, None)
        for claims in self._claims.values():
            for waiting in [each for each in claims if each[0] is link]:
                claims.remove(waiting)
        for cid in [cid for cid, owner in self.owners.items() if owner.link is link]:
            self._gone(cid, self.owners[cid], "keep", None, None, now_ms, WORKER_GRACE_MS)

    # -- requests of workers --------------------------------------------------------------------------------------------

    def request(self, link: Link, number: int, method: str, arguments: dict[str, Any], now_ms: int) -> None:
        def answer(ok: bool, result: Any) -> None:
            self._send(link, REPLY, [number, ok, result])

        handler = getattr(self, f"_on_{method}", None)
        if handler is None:
            answer(False, f"unknown request {method}")
            return
        handler(link, answer, now_ms, **arguments)

    def answered(self, number: int, ok: bool, result: Any) -> None:
        """A worker's reply to a request of ours."""
        _, answer = self._asked.pop(number, (None, None))
        if answer is not None:
            answer(ok, result)

    def _ask(self, link: Link, method: str, arguments: dict[str, Any], answer: Answer) -> None:
        self._next_request += 1
        self._asked[self._next_request] = (link, answer)
        self._send(link, REQUEST, [self._next_request, method, arguments])

    def _send(self, link: Link, kind: int, message: Any) -> None:
        self.outbox.append((link, kind, message))

    def _broadcast(self, kind: int, message: Any) -> None:
        for link in self.links:
            self._send(link, kind, message)

    def _on_barrier(self, link: Link, answer: Answer, now_ms: int) -> None:
        answer(True, True)

    # -- claims -----------------------------------------------------------------------------------------------------------

    def _on_claim(self, link: Link, answer: Answer, now_ms: int, **claim: Any) -> None:
        cid = claim["cid"]
        owner = self.owners.get(cid)
        if owner is not None and owner.link is link and owner.connection == claim["conn"]:
            answer(True, self._granted(owner, True))  # asked again after our restart
            return
        waiting = self._claims.get(cid)
        if waiting is not None:
            waiting.append((link, claim, answer))
        elif owner is None:
            self._grant(link, claim, answer, now_ms)
        else:
            self._claims[cid] = deque([(link, claim, answer)])
            self._take_over(cid, owner, TAKEN_OVER, now_ms)

    def _take_over(self, cid: str, owner: Owner, reason: int, now_ms: int) -> None:
        def ended(ok: bool, result: Any) -> None:
            if self.owners.get(cid) is owner:  # its worker did not know it any more
                self._gone(cid, owner, "keep", None, None, self._now_ms, 0)
            self._next_claim(cid, self._now_ms)

        self._ask(owner.link, "takeover", {"cid": cid, "conn": owner.connection, "reason": reason}, ended)

    def _next_claim(self, cid: str, now_ms: int) -> None:
        waiting = self._claims.get(cid)
        if not waiting:
            self._claims.pop(cid, None)
            return
        link, claim, answer = waiting.popleft()
        self._grant(link, claim, answer, now_ms)
        if waiting:
            self._take_over(cid, self.owners[cid], TAKEN_OVER, now_ms)
        else:
            del self._claims[cid]

    def _grant(self, link: Link, claim: dict[str, Any], answer: Answer, now_ms: int) -> None:
        cid = claim["cid"]
        record = self.sessions.get(cid)
        if record is not None and (claim["clean"] or record.user != claim["user"] or self._expired(record, now_ms)):
            self._end(record, now_ms)
            record = None
        else:
            self._cancel_will(cid)
        present = record is not None
        if record is None and claim["durable"]:
            record = SessionRecord(self.writer.new_sid(), cid, claim["user"], now_ms, claim["expiry_s"], True, 0, 0, 0)
            self._keep(record)
            self.writer.queue_of(record.sid)
        if record is not None:
            record.attached = True
            record.expiry_s = claim["expiry_s"]
            record.epoch += 1
            self._write(record)
        will_id = 0
        if claim["will"] is not None:
            will_id = self.writer.new_will_id()
            will = WillRecord(cid, claim["will"]["delay_s"], claim["will"]["record"])
            self._keep_will(will_id, will)
            self.writer.put("wills", u64(will_id), _encode(will))
        owner = self.owners[cid] = Owner(link, claim["conn"], record, will_id)
        self._presence(record, True)
        answer(True, self._granted(owner, present))

    def _granted(self, owner: Owner, present: bool) -> dict[str, Any]:
        record = owner.session
        if record is None:
            return {"sid": 0, "present": False, "will_id": owner.will_id, "sent": 0}
        return {"sid": record.sid, "present": present, "will_id": owner.will_id, "sent": record.sent_qseq}

    def _presence(self, record: SessionRecord | None, online: bool) -> None:
        if record is not None and record.sid in self.shared:
            self._broadcast(EVENT, ["presence", {"sid": record.sid, "online": online}])

    # -- the end of a connection ------------------------------------------------------------------------------------------

    def _on_detach(
        self, link: Link, answer: Answer, now_ms: int, cid: str, conn: int, expiry_s: int, will: str, sent: int = 0
    ) -> None:
        owner = self.owners.get(cid)
        if owner is not None and owner.link is link and owner.connection == conn:
            self._gone(cid, owner, will, expiry_s, sent, now_ms, 0)
        answer(True, True)

    def _gone(self, cid: str, owner: Owner, will: str, expiry_s: int | None, sent: int | None, now_ms: int,
              grace_ms: int) -> None:  # fmt: skip
        del self.owners[cid]
        record = owner.session
        if owner.will_id in self.wills:
            if will == "drop":
                self._drop_will(owner.will_id)
            else:
                delay_ms = 0 if will == "now" else self.wills[owner.will_id].delay_s * 1000
                self._will_due(owner.will_id, now_ms + max(delay_ms, grace_ms))
        if record is not None and self.sessions.get(cid) is record:
            # A worker that died cannot say what it had sent: all of it may have been.
            unknown = self.writer.queue_of(record.sid).next_qseq - 1
            self._detached(
                record, record.expiry_s if expiry_s is None else expiry_s, unknown if sent is None else sent, now_ms
            )

    def _detached(self, record: SessionRecord, expiry_s: int, sent: int, now_ms: int) -> None:
        record.attached = False
        record.expiry_s = expiry_s
        record.detached_ms = now_ms
        record.sent_qseq = max(record.sent_qseq, sent)
        self._presence(record, False)
        if expiry_s == 0:
            self._end(record, now_ms)
            return
        self._write(record)
        self._expire_later(record)

    def _expire_later(self, record: SessionRecord) -> None:
        if record.expiry_s == NEVER:
            return

        def expire(now_ms: int) -> None:
            if self.by_sid.get(record.sid) is record and self._expired(record, now_ms):
                self._count("sessions_expired")
                self._end(record, now_ms)

        self._later(record.detached_ms + record.expiry_s * 1000, expire)

    def _expired(self, record: SessionRecord, now_ms: int) -> bool:
        if record.attached or record.expiry_s == NEVER:
            return False
        return now_ms >= record.detached_ms + record.expiry_s * 1000

    # -- sessions -----------------------------------------------------------------------------------------------------------

    def _keep(self, record: SessionRecord) -> None:
        self.sessions[record.client_id] = record
        self.by_sid[record.sid] = record

    def _write(self, record: SessionRecord) -> None:
        self.writer.put("sessions", client_key(record.client_id), _encode(record))

    def _end(self, record: SessionRecord, now_ms: int) -> None:
        """The session is over: its will is due, nothing matches it any more, its queue goes bit by bit."""
        if self.sessions.get(record.client_id) is record:
            del self.sessions[record.client_id]
            self.writer.delete("sessions", client_key(record.client_id))
        self.by_sid.pop(record.sid, None)
        self.shared.pop(record.sid, None)
        for will_id in self._wills_of.get(record.client_id, ()):
            if will_id not in self._firing and self._due_wills.get(will_id, now_ms) > now_ms:
                self._will_due(will_id, now_ms)  # [MQTT-3.1.2-8]
        with self.writer.cursor("subs") as cursor:
            while cursor.set_range(u64(record.sid)) and cursor.key()[:8] == u64(record.sid):
                cursor.delete()
        self._broadcast(EVENT, ["session_ended", {"sid": record.sid}])
        self._purges.append(record)

    def _on_session_delete(self, link: Link, answer: Answer, now_ms: int, cid: str) -> None:
        owner = self.owners.get(cid)

        def delete(ok: bool, result: Any) -> None:
            record = self.sessions.get(cid)
            if record is not None:
                self._end(record, self._now_ms)
            answer(True, record is not None)

        if owner is None:
            delete(True, None)
        else:
            self._ask(owner.link, "takeover", {"cid": cid, "conn": owner.connection, "reason": KICKED}, delete)

    def _on_kick(self, link: Link, answer: Answer, now_ms: int, cid: str, reason: int = KICKED) -> None:
        owner = self.owners.get(cid)
        if owner is None:
            answer(True, False)
            return
        self._ask(
            owner.link, "takeover", {"cid": cid, "conn": owner.connection, "reason": reason},
            lambda ok, result: answer(True, True),
        )  # fmt: skip

    def _on_retained_delete(self, link: Link, answer: Answer, now_ms: int, topic: str) -> None:
        answer(True, self.writer.delete_retained(topic.encode()))

    # -- subscriptions ------------------------------------------------------------------------------------------------------

    def _on_subscribe(self, link: Link, answer: Answer, now_ms: int, sid: int, subs: list[list[Any]]) -> None:
        record = self.by_sid.get(sid)
        if record is None:
            answer(False, "the session is over")
            return
        changes = []
        for filter, options, identifier in subs:
            key = subscription_key(sid, filter)
            if filter.startswith("$share/") and self.writer.get("subs", key) is None:
                self.shared[sid] = self.shared.get(sid, 0) + 1
            self.writer.put("subs", key, _encode(Subscription(filter, options, identifier)))
            changes.append([sid, record.client_id, record.user, filter, options, identifier])
        self._make_known(changes, answer)
        if sid in self.shared:
            self._presence(record, record.client_id in self.owners)

    def _on_unsubscribe(self, link: Link, answer: Answer, now_ms: int, sid: int, filters: list[str]) -> None:
        record = self.by_sid.get(sid)
        if record is None:
            answer(True, True)
            return
        changes = []
        for filter in filters:
            if self.writer.delete("subs", subscription_key(sid, filter)):
                if filter.startswith("$share/"):
                    self.shared[sid] -= 1
                    if not self.shared[sid]:
                        del self.shared[sid]
                changes.append([sid, record.client_id, record.user, filter, None, 0])
        self._make_known(changes, answer)

    def _make_known(self, changes: list[list[Any]], answer: Answer) -> None:
        """`answer` when every worker has applied the changes."""
        open_answers = len(self.links)
        if not open_answers or not changes:
            answer(True, True)
            return

        def applied(ok: bool, result: Any) -> None:
            nonlocal open_answers
            open_answers -= 1
            if open_answers == 0:
                answer(True, True)

        for link in self.links:
            self._ask(link, "subs_changed", {"changes": changes}, applied)

    # -- wills --------------------------------------------------------------------------------------------------------------

    def _keep_will(self, will_id: int, will: WillRecord) -> None:
        self.wills[will_id] = will
        self._wills_of.setdefault(will.client_id, []).append(will_id)

    def will_fired(self, will_id: int) -> None:
        """Its publish is part of this turn's commit."""
        will = self.wills.pop(will_id, None)
        self._due_wills.pop(will_id, None)
        self._firing.discard(will_id)
        if will is not None:
            ids = self._wills_of[will.client_id]
            ids.remove(will_id)
            if not ids:
                del self._wills_of[will.client_id]

    def _drop_will(self, will_id: int) -> None:
        self.will_fired(will_id)
        self.writer.delete("wills", u64(will_id))

    def _cancel_will(self, cid: str) -> None:
        """The client is back before its will's delay was over."""
        for will_id in list(self._wills_of.get(cid, ())):
            if will_id not in self._firing and self._due_wills.get(will_id, 0) > self._now_ms:
                self._drop_will(will_id)  # [MQTT-3.1.3-9]

    def _will_due(self, will_id: int, due_ms: int) -> None:
        self._due_wills[will_id] = due_ms
        self._later(due_ms, lambda now_ms: self._fire_will(will_id, now_ms))

    def _fire_will(self, will_id: int, now_ms: int) -> None:
        will = self.wills.get(will_id)
        if will is None or self._due_wills.get(will_id, NEVER << 32) > now_ms:
            return
        self._will_due(will_id, now_ms + WILL_RETRY_MS)  # until its publish has been committed
        if self.links:
            self._firing.add(will_id)
            link = self.links[will_id % len(self.links)]
            arguments = {"will_id": will_id, "cid": will.client_id, "record": will.record}
            self._ask(link, "publish_will", arguments, lambda ok, result: None)

    # -- time -----------------------------------------------------------------------------------------------------------------

    _now_ms = 0

    def tick(self, now_ms: int) -> None:
        """What the time brings; call it in every turn, first."""
        self._now_ms = now_ms
        while self._timers and self._timers[0][0] <= now_ms:
            heapq.heappop(self._timers)[2](now_ms)
        self._purge(now_ms)

    def _later(self, due_ms: int, action: Callable[[int], None]) -> None:
        self._timer_number += 1
        heapq.heappush(self._timers, (due_ms, self._timer_number, action))

    def next_due_ms(self) -> int | None:
        """When `tick` has something to do; None: nothing is planned."""
        times = [self._timers[0][0]] if self._timers else []
        if self._purges:
            times.append(0)
        return min(times, default=None)

    def _purge(self, now_ms: int) -> None:
        if not self._purges:
            return
        record = self._purges[0]
        more, shared = self.writer.purge(record.sid, PURGE_ENTRIES, record.sent_qseq)
        for qseq, share, body in shared:
            if self.links:
                message = ["redispatch", {"sid": record.sid, "qseq": qseq, "share": share, "record": body}]
                self._send(self.links[qseq % len(self.links)], EVENT, message)
        if shared:  # these stay until another member has them: look again
            self._later(now_ms + WILL_RETRY_MS, lambda _: self._purges.append(record))
        if shared or not more:
            self._purges.popleft()

    def _count(self, name: str) -> None:
        self.tally[name] = self.tally.get(name, 0) + 1

    # -- for people -----------------------------------------------------------------------------------------------------------

    def _on_status(self, link: Link, answer: Answer, now_ms: int) -> None:
        answer(
            True,
            {
                "clients": len(self.owners),
                "sessions": len(self.sessions),
                "workers": len(self.links),
                "wills": len(self.wills),
                "queued_messages": self.writer.queued_messages,
                "queued_bytes": self.writer.queued_bytes,
                "retained_messages": self.writer.retained_messages,
                "disk_full": bool(self.writer.full),
            },
        )
