"""Sessions that other hosts deliver: how they are fetched, handed over, and kept equal here.

One host owns a session: it delivers its queue. All hosts hold all sessions. A client that comes here has its session asked for
(node/sessions/release.py); a host that cannot be asked is not waited for: its session is taken, on a branch of numbers of its own
(storage/writer.pyx), and what that host had numbered meanwhile is appended when it is back.
Of two sessions of one client id that born later counts, of two records of one the higher epoch, then the higher owner
(docs/decisions/0005-replication.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from node.keeper.heals import Heals
from node.sessions.estate import Estate, unite
from node.sessions.fetch import Fetch
from node.sessions.handover import Handover
from node.sessions.outbox import Answer, Link
from node.sessions.owners import TAKEN_OVER
from storage.layout import HEADER_BYTES, NUMBER_BITS, SessionRecord, WillRecord, client_key

if TYPE_CHECKING:
    from node.sessions.directory import Directory

STRAY_MS = 20_000
SILENT_MS = 10_000  # before a host is known to be down
ANNOUNCED, ANNOUNCE_MS = 1000, 50  # so many clients in such a time
WILL_GRACE_MS = 30_000  # a host that is gone: its clients may come back before their wills fire

Change = tuple[str, bytes, bytes | None, bool]  # see Writer.records_of

_encode = msgspec.msgpack.encode
_decode_session = msgspec.msgpack.Decoder(SessionRecord).decode
_decode_will = msgspec.msgpack.Decoder(WillRecord).decode


def _rank(record: SessionRecord, dot: int) -> tuple[int, int, int, bool, int]:
    """The later birth, of one session the later epoch; of one epoch what its owner says."""
    return record.created_ms, record.epoch, record.owner, dot >> NUMBER_BITS == record.owner, dot


class Elsewhere:
    def __init__(self, directory: Directory, number: int, heals: Heals) -> None:
        self._directory = directory
        self.number, self.heals = number, heals
        self.peers: dict[int, Link] = {}  # number -> peer that can be asked
        self.evicted: set[int] = set()
        self._emptied: set[int] = set()  # of them, those that were removed and whose sessions are all taken
        self._unheard_ms: dict[int, int] = {}  # since when a host may not have heard whose clients are here
        self.members: set[int] = set()  # numbers of the cluster's hosts
        self.are_all_known = True  # the numbers of all of them
        self.removed: set[int] = set()  # of hosts that are members no more
        self.retired: set[int] = set()  # numbers that a host had before its store was another one
        self.has_all: Callable[[], bool] = lambda: True  # is here what every other host has?
        # Of which hosts that are gone another one has more: up to that commit
        self.lacking: Callable[[], dict[int, int]] = dict
        self.is_past: Callable[[int], bool] = lambda dot: False  # is that put older than what is here?
        self.is_in_sync: Callable[[Link], bool] = lambda peer: False
        self.tell_context: Callable[[Link], None] = lambda peer: None
        self.taking: set[str] = set()  # client ids whose sessions we are about to take from hosts that cannot be asked
        self._strays_due = False
        self._anew: list[SessionRecord] = []  # are put anew: their hosts learn what we know of them
        self.handover = Handover(directory)
        directory.writer.may_have_sent = lambda sid, qseq: qseq <= self._last_sent(directory.by_sid.get(sid))

    def owns(self, record: SessionRecord) -> bool:
        """Ours, and its queue has been taken over."""
        return record.owner == self.number and record.sid not in self._directory.writer.foreign

    # -- a client comes here ----------------------------------------------------------------------------------------------

    def fetch(self, cid: str, now_ms: int, fetched: Callable[[], None], is_wanted: Callable[[], bool]) -> None:
        """Make the client id's session ours, if there is one, then call `fetched()`; also when it `is_wanted()` no more."""
        Fetch(self._directory, cid, now_ms, fetched, is_wanted)

    def _last_sent(self, record: SessionRecord | None) -> int:
        """The last number that the client may have had from here."""
        if record is None:
            return 0
        last: int = self._directory.writer.queue_of(record.sid).next_qseq - 1
        return last if record.attached else record.sent_qseq

    def is_gone(self, number: int) -> bool:
        """Is this host none that will come back soon?"""
        is_known = number in self.members or not self.are_all_known
        return number in self.evicted or number in self.retired or not is_known

    def is_unsure(self, sid: int) -> bool:
        """May the client have ended QoS 2 flows at a host that cannot tell us?"""
        return bool(self.evicted) or self._directory.writer.is_taken(sid)

    def own(self, record: SessionRecord, asked: bool) -> None:
        """From now on it is ours. `asked`: the host that had it knows, and its queue is here."""
        directory = self._directory
        if not asked:
            directory.wills.lost(record.client_id, directory.now_ms)
            directory.count("takeovers_unclean")
            self.heals.taken_over(record.owner)
        if record.attached:  # its host could not say when it lost the client
            record.detached_ms = directory.now_ms
            record.attached = False
        record.owner = self.number
        record.epoch += 1
        last = directory.writer.own(record.sid, asked, record.sent_qseq)
        if not asked:
            record.sent_qseq = last  # so that who gets it from us goes on behind that, though there may be no entry
        directory.write(record)
        directory.presence.tell(record)
        directory.expiry.later(record)

    def announce(self, cid: str, at_ms: int) -> None:
        """A client is connected here: the others end an earlier connection of the same id."""
        for peer in self.peers.values():
            self._announce_to(peer, cid, at_ms)

    def _announce_to(self, peer: Link, cid: str, at_ms: int) -> None:
        self._directory.outbox.event(peer, "connected", {"cid": cid, "at_ms": at_ms, "number": self.number})

    def _announce_late(self, peer: Link, cids: Iterator[str], now_ms: int) -> None:
        """Who connected here while that host was gone, some at a time. What was said is lost with the link, until it is in sync."""
        number = peer.number
        if self.peers.get(number) is not peer:
            return
        some = list(islice(cids, ANNOUNCED))
        for cid in some:
            owner = self._directory.owners.get(cid)
            if owner is not None:
                self._announce_to(peer, cid, owner.at_ms)
        if some or not self.is_in_sync(peer):
            self._directory.timers.at(now_ms + ANNOUNCE_MS, partial(self._announce_late, peer, cids))
        else:
            self._unheard_ms.pop(number, None)

    def connected(self, cid: str, at_ms: int, number: int) -> None:
        """At another host, at `at_ms` of the clock that the hosts share. If that is earlier, it did not know of ours."""
        directory = self._directory
        owner = directory.owners.get(cid)
        if owner is None:
            directory.wills.returned(cid, directory.now_ms, number)
        elif (owner.at_ms, self.number) > (at_ms, number):
            if number in self.peers:
                self._announce_to(self.peers[number], cid, owner.at_ms)
        elif owner.session is None:
            directory.end(cid, owner, TAKEN_OVER)

    def kick(self, link: Link, answer: Answer, cid: str) -> None:
        """The client is not here: the host that has it ends its connection. Who is asked by another host asks no further."""
        others = [] if link in self.peers.values() else list(self.peers.values())

        def ask_next(ok: bool, result: Any) -> None:
            if result is True or not others:
                answer(True, result is True)
            else:
                self._directory.outbox.ask(others.pop(), "kick", {"cid": cid}, ask_next)

        ask_next(True, False)

    # -- another host gets a session -----------------------------------------------------------------------------------------

    def give(self, record: SessionRecord, number: int) -> None:
        """From now on it is that host's, which takes it when it is told that it has this commit."""
        if self.evicted:  # one of them may have ended what we have sent again
            self._directory.writer.lose(record.sid, self._last_sent(record))
        record.sent_qseq = self._last_sent(record)
        record.owner = number
        record.epoch += 1
        self._directory.writer.foreign.add(record.sid)
        self._directory.write(record)

    def given(self, sessions: list[tuple[int, int]]) -> None:
        """(sid, epoch): what their last owner did with them is all here."""
        for sid, epoch in sessions:
            record = self._directory.by_sid.get(sid)
            if record is not None and (record.owner, record.epoch) == (self.number, epoch):
                self.own(record, asked=True)

    # -- what other hosts have committed ------------------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change], now_ms: int) -> list[list[Any]]:
        """Records of sessions, subscriptions and wills; the changes of subscriptions that workers have to be told."""
        told: list[list[Any]] = []
        for database, key, value, both in changes:
            if database == "over":
                self._went_on(int.from_bytes(key, "big"))
            elif database == "sessions":
                told += self._apply_session(key, value, both)
            elif database == "subs":
                sid = int.from_bytes(key[:8], "big")
                record = self._directory.by_sid.get(sid)
                self._directory.presence.changes(sid)
                told += self._directory.subscriptions.apply(record, key, value)
            else:
                self._apply_will(key, value)
        for record in self._anew:
            if record.sid in self._directory.by_sid:
                self._directory.write(self._directory.by_sid[record.sid])
        self._anew.clear()
        self._directory.presence.tell_changed()
        return told

    def look_at_strays(self, now_ms: int) -> None:
        """Entries of sessions that we do not know: of one that is over, or whose record comes later, from a third host."""
        if self._directory.writer.strays and not self._strays_due:
            self._strays_due = True
            self._directory.timers.at(now_ms + STRAY_MS, self._purge_strays)

    def _purge_strays(self, now_ms: int) -> None:
        directory, self._strays_due = self._directory, False
        for sid in list(directory.writer.strays):
            if sid not in directory.by_sid:
                directory.purges.add(SessionRecord(sid, "", None, 0, 0, False, 0, 0, 0), False)
        directory.writer.strays.clear()

    def _apply_session(self, key: bytes, value: bytes | None, both: bool) -> list[list[Any]]:
        """`both`: they did not know of ours, nor we of theirs. Then every host has to choose the same one."""
        directory = self._directory
        stored = directory.writer.get("sessions", key)
        ours = None if stored is None else directory.sessions.get(_decode_session(stored).client_id)
        theirs = None if value is None else _decode_session(value[HEADER_BYTES:])
        is_other = ours is not None and theirs is not None and theirs.sid != ours.sid
        if both and ours is not None and theirs is None:
            directory.writer.renew(ours.sid)  # not by its owner only: who ended it may meet us first, then know better
            self._anew.append(ours)  # a third host may have preferred the record whose end this is
            return []
        if ours is not None and theirs is not None and self._is_back_there(ours, theirs, value):
            directory.writer.renew(ours.sid)
        if both and ours is not None and theirs is not None:
            dots = directory.writer.dot_in(value), directory.writer.dot_at("sessions", key)
            is_ours = _rank(theirs, dots[0]) < _rank(ours, dots[1])
            self._merged(ours.client_id, is_ours)
            heir, other = (ours, theirs) if is_ours else (theirs, ours)
            if unite(heir, other):
                self._anew.append(heir)
            if is_ours:
                return []
        estate = None
        if ours is not None and (theirs is None or is_other):
            if theirs is not None and ours.sid in theirs.inherits:
                # Given away by us, and they do not know of that
                is_given = both and directory.writer.dot_at("sessions", key) >> NUMBER_BITS == self.number
                estate = Estate(directory, ours, is_given or self.owns(ours))
            self.end_here(ours, theirs is None)
            ours = None
        if theirs is not None and value is not None:
            self._adopt(theirs, key, value, ours)
        if theirs is None or ours is not None:
            return []
        return directory.subscriptions.adopt(theirs) + (estate.leave(theirs) if estate is not None else [])

    def _went_on(self, sid: int) -> None:
        """Another host has ended the session, and says so before what went with it; if it goes on here all of that does."""
        record = self._directory.by_sid.get(sid)
        if record is not None and self.owns(record):
            self._directory.writer.renew(sid)
        elif record is not None and sid not in self._directory.writer.ended:
            self._directory.writer.note_over(sid)  # what goes with it goes here, too
            self._directory.writer.say_over(sid)

    def _is_back_there(self, ours: SessionRecord, theirs: SessionRecord, value: bytes | None) -> bool:
        """Has another host ended our session, and heard since that it goes on? Then it puts our record anew."""
        is_same = (theirs.sid, theirs.owner, theirs.epoch) == (ours.sid, self.number, ours.epoch)
        return is_same and self.owns(ours) and self._directory.writer.dot_in(value) >> NUMBER_BITS != self.number

    def end_here(self, record: SessionRecord, there: bool) -> None:
        """The host that owned it has ended it."""
        directory = self._directory
        owner = directory.owners.get(record.client_id)
        if owner is not None and owner.session is record:
            directory.end(record.client_id, owner, TAKEN_OVER)
        directory.writer.keep_here("sessions", client_key(record.client_id), None)
        directory.subscriptions.drop(record.sid, there)
        directory.forget(record, False)

    def _merged(self, cid: str, is_ours: bool) -> None:
        """Both sides had changed the session; whose record counts?"""
        if self.heals.merged(cid, is_ours):
            self._directory.count("merge_sessions_here" if is_ours else "merge_sessions_peer")

    def _adopt(self, theirs: SessionRecord, key: bytes, value: bytes, ours: SessionRecord | None = None) -> None:
        """Their record counts; who is connected here by ours loses the session."""
        directory = self._directory
        directory.writer.keep_here("sessions", key, value)
        directory.presence.changes(theirs.sid)
        if ours is None:
            ours = theirs
            directory.writer.queue_of(ours.sid)
            directory.writer.goes_on(ours.sid, ours.owner == self.number)
            if ours.sid in directory.writer.ended:
                directory.writer.say_over(ours.sid)
                # A part of a snapshot, or a commit of which another host has told what came of it, may be older than the end.
                if not (directory.writer.covering or self.is_past(directory.writer.dot_in(value))):
                    self._anew.append(ours)  # its host learns of the end, whose consequences it may hear from us
        else:
            if self.owns(ours) and theirs.owner != self.number:
                directory.writer.lose(ours.sid, self._last_sent(ours))
            for name in SessionRecord.__struct_fields__:
                setattr(ours, name, getattr(theirs, name))
        directory.keep(ours)
        if ours.owner == self.number:  # handed over to us: `fetch` or `given` goes on when the queue is here, too
            self.handover.expect(ours)
            return
        directory.writer.foreign.add(ours.sid)
        owner = directory.owners.get(ours.client_id)
        if owner is not None and owner.session is ours:
            directory.end(ours.client_id, owner, TAKEN_OVER)
        if ours.owner in self.removed:
            self.handover.take_later(ours.owner)

    def _apply_will(self, key: bytes, value: bytes | None) -> None:
        directory, will_id = self._directory, int.from_bytes(key, "big")
        directory.writer.keep_here("wills", key, value)
        if value is None:
            directory.wills.fired(will_id)
        else:
            directory.wills.adopt(will_id, _decode_will(value[HEADER_BYTES:]))
            if will_id >> NUMBER_BITS != self.number and self.is_gone(will_id >> NUMBER_BITS):
                directory.wills.left(will_id, directory.now_ms, WILL_GRACE_MS)

    def tell(self, link: Link, loaded: bool) -> None:
        """A worker is told what changes from now on, and what it may have missed if it knows (`loaded`) how it was before."""
        if link not in self._directory.outbox.told:
            if loaded:
                self._tell_missed(link)
            self._directory.outbox.tell(link)

    def _tell_missed(self, link: Link) -> None:
        directory, changes = self._directory, []
        directory.outbox.event(link, "subscriptions_missed", {}, urgent=True)
        for sid in directory.writer.foreign:
            record = directory.by_sid.get(sid)
            if record is not None:
                changes += directory.subscriptions.of(record)
        if changes:
            directory.outbox.ask(link, "subs_changed", {"changes": changes}, urgent=True)

    # -- hosts come and go --------------------------------------------------------------------------------------------------

    def up(self, peer: Link) -> None:
        self.peers[peer.number] = peer
        self.evicted.discard(peer.number)
        self._directory.wills.host_back(peer.number)
        if peer.number in self._unheard_ms:
            late = self._directory.owners.since(self._unheard_ms[peer.number])
            self._announce_late(peer, iter(late), self._directory.now_ms)
        self._look_for_orphans()
        self._directory.presence.host_changed(peer.number)

    def down(self, peer: Link, now_ms: int) -> None:
        """It cannot be asked any more; gone for good, as far as we know."""
        self._unheard_ms.setdefault(peer.number, now_ms - SILENT_MS)
        self.peers = {number: other for number, other in self.peers.items() if other is not peer}
        self._directory.outbox.left(peer)

    def gone(self, number: int, now_ms: int) -> None:
        """Evicted: one of us fires the wills of its clients that do not come back in time."""
        self.evicted.add(number)
        self._emptied.discard(number)
        self._look_for_orphans()
        self._directory.wills.host_gone(number, now_ms, WILL_GRACE_MS)
        self._directory.presence.host_changed(number)

    def forgotten(self, number: int) -> None:
        """It is no member any more, and nothing is its own."""
        self._unheard_ms.pop(number, None)
        self._emptied.add(number)
        self._look_for_orphans()

    def renumbered(self, peer: Link) -> None:
        """Its store is another one; with the number that it has until now it is gone."""
        self.retired.add(peer.number)
        self.members.discard(peer.number)
        self.evicted.discard(peer.number)
        self.peers.pop(peer.number, None)
        self._look_for_orphans()
        self._directory.wills.host_gone(peer.number, self._directory.now_ms, WILL_GRACE_MS)
        self._directory.presence.host_changed(peer.number)

    def is_first(self) -> bool:
        """Of the hosts that are there, as far as we know, the one with the lowest number: it does what one of them has to do."""
        return self.number <= min(self.members - self.evicted, default=self.number)

    def after_restart(self, now_ms: int) -> None:
        """What came of hosts which are no members any more."""
        self.handover.resume(now_ms)
        for number in self._directory.wills.hosts() - {self.number}:
            if self.is_gone(number):
                self._directory.wills.host_gone(number, now_ms, WILL_GRACE_MS)

    def _look_for_orphans(self) -> None:
        """The writer asks of each message only while an evicted host has sessions."""
        self._directory.writer.is_orphan = self._is_orphan if self.evicted - self._emptied else None

    def _is_orphan(self, sid: int) -> bool:
        record = self._directory.by_sid.get(sid)
        return record is not None and record.owner in self.evicted
