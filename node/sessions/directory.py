"""The keeper's decisions: who owns which client id, what outlives a connection, and when it ends.

One turn: requests and link changes go in by `requests`, `outbox.answered`, `worker_came`, `worker_left` and `tick`; what has to be
sent is in `outbox` afterwards, and may leave only when the turn is committed. Writes go to the Writer, whose transaction is open.
Time is an argument (store clock, ms); no socket, no random, no LMDB of its own.

A client id is owned by at most one connection (`owners`). A claim of an owned id waits until the owner's worker has ended it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import msgspec

from node.keeper.heals import Heals
from node.sessions.claim import Claim
from node.sessions.elsewhere import Elsewhere
from node.sessions.expiry import Expiry, is_expired
from node.sessions.outbox import Answer, Link, Outbox
from node.sessions.owners import TAKEN_OVER, Owner, Owners
from node.sessions.presence import Presence
from node.sessions.purges import Purges
from node.sessions.requests import Requests
from node.sessions.subscriptions import Subscriptions
from node.sessions.timers import AT_ONCE, Timers
from node.sessions.wills import Wills
from storage.layout import NUMBER_BITS, SessionRecord, client_key

WORKER_GRACE_MS = 2000  # a worker that died: its clients may come back elsewhere before their wills fire
MOVED_GRACE_MS = 10_000  # a client that was sent to another host, before its will fires
OUTDATED_MS = 1000  # that a CONNECT lay unread, and came before the client's last one elsewhere
RESTART_GRACE_MS = 3000  # after the keeper's own start: for workers to say whom they have

NO_SESSION = {"sid": 0, "present": False, "will_id": 0, "sent": 0}  # the answer to a claim that begins none

T = TypeVar("T")

_encode = msgspec.msgpack.encode
_decode_session = msgspec.msgpack.Decoder(SessionRecord).decode


class Directory:
    def __init__(
        self, writer: Any, number: int, workers: int, heals: Heals, beat: Callable[[], None] = lambda: None
    ) -> None:
        """`number`: this host's, that of the sessions which it owns. `beat()`: now and then where a turn takes long."""
        self.writer = writer
        self.outbox = Outbox(workers)
        self.timers = Timers()
        self.wills = Wills(writer, self.timers, self.outbox, lambda: self.elsewhere.is_first())
        self.elsewhere = Elsewhere(self, number, heals)
        self.owners = Owners()
        self.sessions: dict[str, SessionRecord] = {}
        self.by_sid: dict[int, SessionRecord] = {}
        self.attached: set[int] = set()  # sids of those with a client, at whichever host
        self.subscriptions = Subscriptions(writer, self.outbox)
        self.purges = Purges(writer, self.timers, self.outbox, self.by_sid, lambda: self.elsewhere.is_first())
        self.expiry = Expiry(self)
        self.presence = Presence(self)
        self.requests = Requests(self)
        self.tally: dict[str, int] = {}
        self._beat = beat
        self._claims: dict[str, deque[tuple[Link, Claim, Answer]]] = {}
        self._left: dict[int, int] = {}  # sid -> last qseq at our start, until a worker has said who has the session
        self._have_said = False  # have all workers said whom they have, since our start?

    # -- start ----------------------------------------------------------------------------------------------------------

    def load(self, sessions: list[bytes], wills: list[tuple[int, bytes]], subscriptions: list[tuple[int, bytes]],
             now_ms: int) -> None:  # fmt: skip
        """What the store has; who is attached shows when the workers have said HELLO."""
        self.outbox.began(now_ms)
        for value in sessions:
            record = _decode_session(value)
            self.keep(record)
            self.writer.queue_of(record.sid)
            if record.owner != self.elsewhere.number:
                self.writer.foreign.add(record.sid)
            elif record.attached:
                self._left[record.sid] = self._last_qseq(record)
        self.wills.load(wills)
        self.subscriptions.load(subscriptions)
        known = set(self.by_sid)
        for sid in known & (self.writer.half_done.keys() | self.writer.half_sent.keys()):
            self.writer.goes_on(sid, False)  # it began to before our start
        for sid in [sid for sid in self.writer.queues if sid not in known]:
            if sid >> NUMBER_BITS == self.elsewhere.number:
                self.purges.add(SessionRecord(sid, "", None, 0, 0, False, 0, 0, 0), True)
            else:
                self.writer.foreign.add(sid)
                self.writer.strays.add(sid)
        self.timers.at(now_ms + RESTART_GRACE_MS, self._after_restart)
        self.timers.at(now_ms + RESTART_GRACE_MS, lambda later_ms: self.outbox.all_told())

    def is_unsure(self, sid: int) -> bool:
        """May a worker that has not said HELLO yet have a client with this session?"""
        return sid in self._left and not self._have_said

    def _after_restart(self, now_ms: int) -> None:
        if self.writer.is_settling:
            self.timers.at(now_ms + RESTART_GRACE_MS, self._after_restart)
            return
        self._have_said = True
        self._look_after_some(iter(list(self.sessions.values())), now_ms)

    def _look_after_some(self, records: Iterator[SessionRecord], now_ms: int) -> None:
        """Some in each turn: between them the keeper's heart beats."""
        some = list(islice(records, AT_ONCE))
        for record in some:
            if self.sessions.get(record.client_id) is record and self.elsewhere.owns(record):
                self.look_after(record, now_ms)
        if some:
            self.timers.at(now_ms, partial(self._look_after_some, records))
            return
        self.wills.orphaned(self.elsewhere.number, self.owners.will_ids(), self._is_connected_elsewhere, now_ms)
        self.elsewhere.after_restart(now_ms)

    def _is_connected_elsewhere(self, cid: str) -> bool:
        record = self.sessions.get(cid)
        return record is not None and record.attached and record.owner != self.elsewhere.number

    def look_after(self, record: SessionRecord, now_ms: int) -> None:
        """A session of ours whose client may not be here: then it ends in time."""
        owner = self.owners.get(record.client_id)
        if owner is not None and owner.session is record:
            return
        if record.attached:
            self._detached(record, record.expiry_s, None, now_ms)
        else:
            self.expiry.later(record)

    # -- links ----------------------------------------------------------------------------------------------------------

    def worker_came(self, link: Link, clients: list[list[Any]], now_ms: int) -> None:
        """A worker said HELLO, and we serve: these clients are its own still, connected for so many seconds."""
        self.outbox.links.append(link)
        self._have_said = self._have_said or len(self.outbox.links) >= self.outbox.workers
        for cid, connection, sid, age_s in self._beating(clients):
            record = self.by_sid.get(sid)
            taken = bool(sid) and (record is None or not self.elsewhere.owns(record))  # by another host
            if taken or cid in self.owners:  # came back elsewhere while we started
                self.outbox.ask(link, "takeover", {"cid": cid, "conn": connection, "reason": TAKEN_OVER})
                continue
            self._left.pop(sid, None)
            at_ms = max(1, now_ms - age_s * 1000) if self.writer.hosts > 1 else 0
            self.owners[cid] = Owner(link, connection, record, self.wills.connected(cid, self.elsewhere.number), at_ms)
            if record is not None:
                self.writer.wake(self.writer.queue_of(sid))  # what came while no worker had the session
        self.presence.tell(*(self.by_sid.get(sid) for _, _, sid, _ in clients))
        self.presence.tell_all(link)

    def worker_left(self, link: Link, now_ms: int) -> None:
        """Its link is lost: its clients are gone, unless they come back soon."""
        for cid in self._claims:
            self.refuse(cid, "its worker is gone", lambda each: each[0] is link)
        self.outbox.left(link)  # behind that: it may grant the next claim
        for cid in self._beating(self.owners.at(link)):
            self._gone(cid, self.owners[cid], "keep", None, None, now_ms, WORKER_GRACE_MS)
        self.owners.left(link)

    def _beating(self, many: Iterable[T]) -> Iterator[T]:
        for number, each in enumerate(many):
            if number % AT_ONCE == 0:
                self._beat()
            yield each

    # -- claims -----------------------------------------------------------------------------------------------------------

    def claim(self, link: Link, answer: Answer, now_ms: int, *fields: Any) -> None:
        """A client is at this worker, and waits for its session."""
        claim = Claim(*fields)
        cid = claim.cid
        owner, waiting = self.owners.get(cid), self._claims.get(cid)
        if owner is not None and owner.link is link and owner.connection == claim.connection:
            answer(True, self._granted(owner, True))  # asked again after our restart
            return
        if waiting is not None:
            waiting.append((link, claim, answer))
        elif owner is not None:
            self._claims[cid] = deque([(link, claim, answer)])
            self.end(cid, owner, TAKEN_OVER, lambda: self._next_claim(cid))
        elif self._is_outdated(claim, now_ms):
            answer(False, "its client has connected to another host since")
        elif cid in self.sessions and not self.elsewhere.owns(self.sessions[cid]):
            self._claims[cid] = deque([(link, claim, answer)])
            self._fetch(cid, now_ms)
        else:
            self._grant(link, claim, answer, now_ms)

    def _is_outdated(self, claim: Claim, now_ms: int) -> bool:
        """It lay here while this host stood still. Clocks of hosts may differ: what did not lie is asked for now."""
        record = self.sessions.get(claim.cid)
        if record is None or self.elsewhere.owns(record) or now_ms - claim.at_ms < OUTDATED_MS:
            return False
        return record.attached and record.epoch > claim.at_ms + OUTDATED_MS

    def unclaim(self, link: Link, answer: Answer, now_ms: int, cid: str, conn: int) -> None:
        """Its client is gone before it was granted."""
        self.refuse(cid, "the client is gone", lambda each: each[0] is link and each[1].connection == conn)
        answer(True, True)

    def refuse(self, cid: str, why: str, which: Callable[[Any], bool] = lambda each: True) -> None:
        waiting = self._claims.get(cid, deque())
        for each in [each for each in waiting if which(each)]:
            waiting.remove(each)
            each[2](False, why)

    def is_claimed(self, cid: str) -> bool:
        return cid in self._claims

    def end(self, cid: str, owner: Owner, reason: int, ended: Callable[[], None] | None = None) -> None:
        """Have its worker end the connection; `ended` when it is over."""

        def answered(ok: bool, result: Any) -> None:
            if owner.is_same(self.owners.get(cid)):  # its worker did not know it any more
                self._gone(cid, owner, "keep", None, None, self.now_ms, 0)
            if ended is not None:
                ended()

        self.outbox.ask(owner.link, "takeover", {"cid": cid, "conn": owner.connection, "reason": reason}, answered)

    def _fetch(self, cid: str, now_ms: int) -> None:
        """From its host, then go on with who claims it, if anybody still does."""
        self.elsewhere.fetch(cid, now_ms, lambda: self._next_claim(cid), lambda: bool(self._claims.get(cid)))

    def _next_claim(self, cid: str) -> None:
        waiting = self._claims.get(cid)
        if not waiting:
            self._claims.pop(cid, None)
            return
        record = self.sessions.get(cid)
        if record is not None and not self.elsewhere.owns(record):  # taken from us meanwhile
            self._fetch(cid, self.now_ms)
            return
        link, claim, answer = waiting.popleft()
        self._grant(link, claim, answer, self.now_ms)
        if waiting:
            self.end(cid, self.owners[cid], TAKEN_OVER, lambda: self._next_claim(cid))
        else:
            del self._claims[cid]

    def _grant(self, link: Link, claim: Claim, answer: Answer, now_ms: int) -> None:
        cid, will = claim.cid, claim.will
        former = record = self.sessions.get(cid)
        at_ms = min(now_ms, claim.at_ms)  # a CONNECT that lay here while this host stood still is not the latest
        if former is None and will is None and not claim.expiry_s:
            self._grant_plain(link, claim, answer, at_ms, now_ms)
            return
        if record is not None and (claim.clean or record.user != claim.user or is_expired(record, now_ms)):
            self.end_session(record, now_ms)
            record = None
        else:
            self.wills.returned(cid, now_ms)
        present = record is not None
        if record is None and claim.expiry_s:
            record = self._begin(claim, former, at_ms)
        if record is not None:
            record.sent_qseq = max(record.sent_qseq, self._left.pop(record.sid, 0))
            record.attached, record.worker = True, link.index
            record.expiry_s = claim.expiry_s
            record.epoch = max(at_ms, record.epoch) + 1
            self.write(record)
        will_id = 0 if will is None else self.wills.new(cid, will["delay_s"], will["record"])
        owner = self.owners[cid] = Owner(link, claim.connection, record, will_id, at_ms)
        self.presence.tell(record)
        self.elsewhere.announce(cid, at_ms)
        answer(True, self._granted(owner, present))

    def _grant_plain(self, link: Link, claim: Claim, answer: Answer, at_ms: int, now_ms: int) -> None:
        """Nothing outlives this connection: nothing is written, and nobody waits for peers to have it."""
        self.wills.returned(claim.cid, now_ms)
        self.owners.put_plain(claim.cid, link, claim.connection, at_ms if self.writer.hosts > 1 else 0)
        self.elsewhere.announce(claim.cid, at_ms)
        answer(True, NO_SESSION)
        self.outbox.hurry()

    def _begin(self, claim: Claim, former: SessionRecord | None, at_ms: int) -> SessionRecord:
        """A session, in place of one that the client id had (`former`)."""
        born_ms, epoch = (at_ms, 0) if former is None else (max(at_ms, former.created_ms + 1), former.epoch)
        record = SessionRecord(
            self.writer.new_sid(), claim.cid, claim.user, born_ms, claim.expiry_s, True, 0, 0, epoch,
            self.elsewhere.number, 0, claim.clean or former is not None,
        )  # fmt: skip
        self.keep(record)
        record.sent_qseq = self.writer.begin_queue(record.sid, bool(self.elsewhere.evicted))
        return record

    def _granted(self, owner: Owner, present: bool) -> dict[str, Any]:
        record = owner.session
        if record is None:
            return {**NO_SESSION, "will_id": owner.will_id}
        return {
            "sid": record.sid, "present": present, "will_id": owner.will_id, "sent": record.sent_qseq,
            "last_qseq": self._last_qseq(record), "taken": self.elsewhere.is_unsure(record.sid),
        }  # fmt: skip

    # -- the end of a connection ------------------------------------------------------------------------------------------

    def detach(
        self, link: Link, answer: Answer, now_ms: int, cid: str, conn: int, expiry_s: int, will: str, sent: int
    ) -> None:
        owner = self.owners.get(cid)
        if owner is not None and owner.link is link and owner.connection == conn:
            self._gone(cid, owner, will, expiry_s, sent, now_ms, MOVED_GRACE_MS if will == "moved" else 0)
        elif will == "drop":
            self.wills.said_goodbye(cid, self.elsewhere.number, owner.will_id if owner is not None else 0)
        answer(True, True)

    def _gone(self, cid: str, owner: Owner, will: str, expiry_s: int | None, sent: int | None, now_ms: int,
              grace_ms: int) -> None:  # fmt: skip
        del self.owners[cid]
        record = owner.session
        if will == "drop":
            self.wills.drop(owner.will_id)
        else:
            self.wills.gone(owner.will_id, now_ms, grace_ms)
        if record is not None and self.sessions.get(cid) is record and self.elsewhere.owns(record):
            self._detached(record, record.expiry_s if expiry_s is None else expiry_s, sent, now_ms)

    def _detached(self, record: SessionRecord, expiry_s: int, sent: int | None, now_ms: int) -> None:
        record.attached = False
        record.expiry_s = expiry_s
        record.detached_ms = now_ms
        # A worker that died cannot say what it had sent: all of it may have been.
        if sent is None:
            left = self._left.pop(record.sid, None)
            sent = self._last_qseq(record) if left is None else left
        record.sent_qseq = max(record.sent_qseq, sent)
        self.presence.tell(record)
        if expiry_s == 0:
            self.end_session(record, now_ms)
            return
        self.write(record)
        self.expiry.later(record)

    def _last_qseq(self, record: SessionRecord) -> int:
        return int(self.writer.queue_of(record.sid).next_qseq) - 1

    # -- sessions -----------------------------------------------------------------------------------------------------------

    def keep(self, record: SessionRecord) -> None:
        self.sessions[record.client_id] = record
        self.by_sid[record.sid] = record
        self.writer.over.discard(record.sid)
        self.writer.heirs.update(dict.fromkeys(record.inherits, record.sid))
        (self.attached.add if record.attached else self.attached.discard)(record.sid)

    def write(self, record: SessionRecord) -> None:
        self.writer.put("sessions", client_key(record.client_id), _encode(record))
        (self.attached.add if record.attached else self.attached.discard)(record.sid)

    def end_session(self, record: SessionRecord, now_ms: int) -> None:
        """The session is over: its will is due, nothing matches it any more, its queue goes bit by bit."""
        record.sent_qseq = max(record.sent_qseq, self._left.pop(record.sid, 0))
        if self.sessions.get(record.client_id) is record:
            self.writer.delete("sessions", client_key(record.client_id))
        self.wills.session_ended(record.client_id, now_ms)
        self.subscriptions.drop(record.sid)
        self.forget(record, True)

    def forget(self, record: SessionRecord, ended_here: bool) -> None:
        if self.sessions.get(record.client_id) is record:
            del self.sessions[record.client_id]
        self.by_sid.pop(record.sid, None)
        self.expiry.forget(record.sid)
        for sid in record.inherits:
            self.writer.heirs.pop(sid, None)
        self.attached.discard(record.sid)
        self.outbox.broadcast("session_ended", {"sid": record.sid}, urgent=True)  # before what it has if it goes on
        self.purges.add(record, ended_here)

    # -- time -----------------------------------------------------------------------------------------------------------------

    now_ms = 0  # of the turn

    def tick(self, now_ms: int) -> None:
        """What the time brings; call it in every turn, first."""
        self.now_ms = now_ms
        self.timers.run(now_ms)
        self.expiry.run(now_ms)
        if not self.writer.is_settling:  # then we may be an old copy, whose commits are none
            self.purges.step(now_ms)

    def next_due_ms(self) -> int | None:
        """When `tick` has something to do; None: nothing is planned."""
        if self.purges and not self.writer.is_settling:
            return 0
        return min((each for each in (self.timers.next_ms, self.expiry.next_ms) if each is not None), default=None)

    def count(self, name: str) -> None:
        self.tally[name] = self.tally.get(name, 0) + 1
