"""The keeper's conversations with the keepers of the other hosts, through the interconnect process of this one (peer.py)."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.replication import Replication, Times
from node.keeper import sources
from node.keeper.digests import Digests
from node.keeper.link import Link
from node.keeper.members import Members
from node.keeper.old_copy import OldCopy
from node.keeper.peer import HELLO, OPEN, SEQ, Peer, Say, decode_context, decode_part, is_past, is_whole
from node.keeper.peer_commits import PeerCommits
from node.keeper.peer_requests import PeerRequests
from node.keeper.shared_clock import SharedClock
from node.keeper.tail import Tail
from node.sessions.directory import Directory
from node.sessions.outbox import EVENT
from storage.layout import META_EVICTED, REPLICATED
from storage.writer import Writer

PEER = 10  # kind of the frames between keeper and interconnect
NODE_ID_BYTES = 16
PART_BYTES = 1 << 20
IN_SYNC = b"1"  # what is stored with the eviction of a peer whose acknowledgements had waited for us
TRIM = 1000  # at a time

_encode = msgspec.msgpack.encode
ALONE_MS = 6000  # after the keeper's start: a host whose interconnect says nothing serves alone


class Replicas:
    """`frames` of the turn go in after `begin` and before the commit; `committed` sends what it brought."""

    def __init__(self, writer: Writer, directory: Directory, number: int, strict: bool, log: Any) -> None:
        self._writer, self._directory, self._number, self._log = writer, directory, number, log
        self.link: Link | None = None  # to the interconnect process
        self.peers: dict[bytes, Peer] = {}
        self.replication = Replication(writer.seq, strict)
        self.evicted: set[bytes] = set()
        self.times = Times()
        self.old_copy = OldCopy(writer, log)
        self.clock = SharedClock(writer, directory, log)
        directory.elsewhere.has_all, directory.elsewhere.is_in_sync = self.has_all, self.replication.is_in_sync
        directory.elsewhere.is_past = lambda dot: is_past(dot, self.peers.values())
        self.heals = directory.elsewhere.heals
        self.sources = sources.Sources(writer, directory, number, self.old_copy, self._say, self._answer)
        self._commits = PeerCommits(
            writer, directory, number, self.peers, self.heals, self.sources, self._say,
            lambda *message: self._requests.take(*message),
        )  # fmt: skip
        self.digests = Digests(writer, directory, log, self.peers, self._speak, self._commits.repair)
        self._requests = PeerRequests(directory, self.sources, self.digests, self._refuse)
        self.tail = Tail(writer, directory, self.heals, log, self._say, self._begin_all)
        self._members = Members(writer, directory.elsewhere, self.evicted)

    # -- the interconnect process -----------------------------------------------------------------------------------------

    def connected(self, link: Link, members: list[bytes]) -> None:
        self.link = link
        if members or self.replication.strict:
            self._writer.begin_recording()
        if self.replication.strict and not members:
            self._say_stalled()
        self._members.are(members)

    def members(self, members: list[bytes], now_ms: int) -> None:
        self._members.are(members)

    def is_settled(self, since_start_ms: int) -> bool:
        """Do we have what the others have acknowledged while we were away, or are they not there? Before that nobody is served."""
        if not self._members.are_told:
            self._members.are_unknown = since_start_ms > ALONE_MS
            return self._members.are_unknown
        return not (self._members.expected or self.sources.lacking()) and is_whole(self._writer, self.peers.values())

    def disconnected(self, link: Link, now_ms: int) -> None:
        if link is self.link:
            self.link = None
            for peer in self.peers.values():
                self._lost(peer, now_ms)
            self._directory.timers.at(now_ms + ALONE_MS, self._still_alone)

    def _still_alone(self, now_ms: int) -> None:
        """Without an interconnect process nobody tells us that peers are gone."""
        if self.link is None:
            for node_id in list(self.peers):
                self.peer_down(node_id, True, now_ms)

    def _lost(self, peer: Peer, now_ms: int) -> None:
        peer.is_heard = False
        self.replication.broken(peer)
        self._directory.elsewhere.down(peer, now_ms)

    def _peer(self, node_id: bytes) -> Peer:
        if node_id not in self.peers:
            self.peers[node_id] = Peer(node_id, self._members.number_of(node_id))
        return self.peers[node_id]

    def peer_up(self, node_id: bytes, now_ms: int) -> None:
        peer = self._peer(node_id)
        self.evicted.discard(node_id)
        self._members.look()
        peer.snapshot = None
        peer.open_said = peer.refused = peer.is_heard = False
        self.tail.link_anew(peer)
        peer.applying.clear()
        peer.break_off()
        self._writer.begin_recording()
        self._greet(peer, wants=1)

    def _greet(self, peer: Peer, wants: int) -> None:
        self._say(peer, Say.HELLO, HELLO.pack(self._number, wants, self._writer.seq))

    def peer_down(self, node_id: bytes, evicted: bool, now_ms: int) -> None:
        peer = self._peer(node_id)
        peer.break_off()
        self._lost(peer, now_ms)
        self.sources.left(peer, now_ms)
        if evicted:
            self._members.expected.discard(node_id)
            self.digests.gone(peer)
            self.heals.began(peer, now_ms)
            was_in_sync = (state := self.replication.peers.get(peer)) is not None and state.in_sync
            if state is not None or not self._has_evicted(peer):
                self._writer.put("meta", META_EVICTED + node_id, IN_SYNC if peer.is_complete else b"")
            peer.has, peer.is_complete = self.had(peer), False
            peer.evictions += node_id not in self.evicted
            self.evicted.add(node_id)
            self._members.look()
            self.replication.evicted(peer)
            self._directory.elsewhere.gone(peer.number, now_ms)
            self.sources.compare()
            self._begin_all()
            if self.is_stalled and (was_in_sync or not self._members.expected):
                self._say_stalled()
            elif was_in_sync:
                self._log.warning(
                    "peer_evicted", peer=peer.name, effect="messages are acknowledged with one copy less until it is back",
                    next="mqnode cluster nodes",
                )  # fmt: skip

    def peer_left(self, node_id: bytes, now_ms: int) -> None:
        """It is no member any more: it is not asked for its sessions, and its copies are missed no longer."""
        self.peer_down(node_id, True, now_ms)
        number = self.peers.pop(node_id).number
        self.evicted.discard(node_id)
        self._members.left(node_id)
        self._directory.elsewhere.handover.removed(number)
        self._writer.forget_host(number)

    def _say_stalled(self) -> None:
        self._log.error(
            "acknowledgements_wait", cause='cluster.ack_policy is "strict", and no other host is in sync',
            effect="publishers of QoS 1 and 2 and durable sessions wait until one is; nothing is lost",
            next='start or join another host, or set cluster.ack_policy = "available" and restart this one',
        )  # fmt: skip

    def had(self, peer: Peer) -> int:
        """The last commit of ours that it had, as far as we know."""
        state = self.replication.peers.get(peer)
        return peer.has if state is None else state.has

    @property
    def is_stalled(self) -> bool:
        """A strict host that is alone acknowledges nothing."""
        return self.replication.strict and not self.replication.in_sync

    @property
    def degraded(self) -> bool:
        """Is a copy missing of what is stored now?"""
        return len(self.peers) > self.replication.in_sync or self.is_stalled or self._members.are_unknown

    def frame(self, body: bytes, now_ms: int) -> None:
        peer = self.peers.get(body[:NODE_ID_BYTES])
        if peer is None or peer.refused:
            return
        say, message = body[NODE_ID_BYTES], body[NODE_ID_BYTES + 1 :]
        if say == Say.HELLO:
            self._greeted(peer, now_ms, *HELLO.unpack(message))
        elif say == Say.OPEN:
            self._opened(peer, *OPEN.unpack(message))
        elif say == Say.TAIL:
            self._say_instead(peer, message)
        elif say == Say.RESET:
            self.tail.answered(peer, message, list(self.peers.values()), now_ms)
        elif say == Say.CONTEXT:
            self.sources.look_at(peer, decode_context(message))
        elif peer.is_heard:  # to be compared with what is here when our tail is undone
            peer.held.append(body)
        elif say == Say.SNAPSHOT:
            self._commits.part(peer, *decode_part(message), now_ms=now_ms)
            self.sources.came(peer, now_ms, part=True)
        elif say == Say.SNAPSHOT_END:
            self._commits.snapshot_ended(peer, message, now_ms)
            self.sources.ended(peer, now_ms)
        elif say == Say.SYNC:
            peer.snapshot = peer.snapshot or (0, b"", self._writer.context())
        elif say == Say.IN_SYNC:
            self._members.expected.discard(peer.node_id)
            peer.is_complete = True
            self.heals.has_all(peer, "here", now_ms)
            self.clock.heard(peer, message)
        elif say == Say.HAVE:
            self._acknowledged(peer, SEQ.unpack(message)[0])
        else:
            self._commits.came(peer, say, message, now_ms)
            self.sources.came(peer, now_ms)

    def _say_instead(self, peer: Peer, keys: bytes) -> None:
        """What its commits have changed and nobody was told of; but not with something here that came of them."""
        if self._writer.covered.last(peer.number) <= self._writer.peer_seq(peer.number):
            self._say(peer, Say.CONTEXT, _encode(self._writer.context()))
            self._say(peer, Say.RESET, self._writer.values_of(keys))

    def _refuse(self, peer: Peer, what: str) -> None:
        """The link ends."""
        peer.refused = True
        if self.link is not None:
            self.link.queue(EVENT, _encode(["refuse", {"node_id": peer.node_id, "what": what}]))

    def _greeted(self, peer: Peer, now_ms: int, number: int, wants: int, last: int) -> None:
        if number == self._number:
            self._log.error(
                "peer_refused", peer=peer.name, cause="its store has the number of ours: one is a copy of the other",
                effect="nothing is replicated", next="restore the backup on one host only",
            )  # fmt: skip
            return
        if peer.number != number:
            if peer.number:
                self._directory.elsewhere.renumbered(peer)
                self._writer.forget_host(peer.number)
            peer.renumber(number)
        self._members.numbered(peer.node_id, number)
        if wants:
            peer.break_off()  # a keeper that starts anew may undo what the one before did last, and answers nothing that was asked
            self.tail.link_anew(peer)
            self._directory.outbox.left(peer)
            self._greet(peer, wants=0)
        elif peer.open_said:
            return
        peer.open_said, peer.last = True, last
        self.sources.greeted(peer, now_ms)

    def _answer(self, peer: Peer, has: int) -> None:
        self._say(peer, Say.OPEN, OPEN.pack(has, self._writer.covered.last(peer.number), self._has_evicted(peer)))

    def _has_evicted(self, peer: Peer) -> bool:
        return self._writer.get("meta", META_EVICTED + peer.node_id) is not None

    def _opened(self, peer: Peer, has: int, saw: int, evicted: int) -> None:
        if self.old_copy.shows(peer, has):
            return
        peer.has, peer.saw = has, saw
        self.heals.opened(peer, bool(evicted), max(0, self._writer.seq - has), self._directory.now_ms)
        peer.went_on = bool(evicted) and not (self._has_evicted(peer) or self.old_copy.was_alone)
        peer.is_heard = True
        self._begin_all()

    def _begin_all(self) -> None:
        """With each that has said what it has."""
        there = [peer for peer in self.peers.values() if peer.is_heard or self.replication.is_open(peer)]
        gone = [peer for peer in self.peers.values() if peer.node_id in self.evicted]
        if self.tail.is_over(there, len(there) + len(gone) == len(self.peers) and not self._unheard):
            for peer in [peer for peer in there if peer.is_heard]:
                self._begin(peer, peer.has)
                held, peer.held = peer.held, []
                for body in held:
                    self.frame(body, self._directory.now_ms)

    def has_all(self) -> bool:
        """Is here what every other host has?"""
        is_told = self.link is not None or not self._writer.known  # who the others are
        return is_told and not self._unheard and all(peer.is_complete for peer in self.peers.values())

    @property
    def _unheard(self) -> set[bytes]:
        """Of these members we do not know yet whether they are there."""
        return self._members.expected - self.peers.keys()

    def _begin(self, peer: Peer, has: int) -> None:
        peer.is_heard = False  # and begun with
        self.old_copy.began()
        gone = self._writer.known.keys() - {each.number for each in self.peers.values()}
        if has == 0 and (self._writer.seq > 1 or gone):  # what others have put is not in our commits
            peer.snapshot = (0, b"", self._writer.context())
        self.replication.opened(peer, has)
        self._directory.elsewhere.up(peer)
        self.digests.opened(peer)
        if self.replication.peers[peer].in_sync:
            self._say_in_sync(peer)
        self._say(peer, Say.CONTEXT, _encode(self._writer.context()))

    def _say_in_sync(self, peer: Peer) -> None:
        self.heals.has_all(peer, "there", self._directory.now_ms)
        self._say(peer, Say.IN_SYNC, self.clock.told())

    def say_in_sync(self) -> None:
        """This host serves since: who joins and waits for one that does may go on."""
        for peer in self.peers.values():
            if self.replication.is_in_sync(peer):
                self._say(peer, Say.CONTEXT, _encode(self._writer.context()))
                self._say_in_sync(peer)

    def _acknowledged(self, peer: Peer, number: int) -> None:
        before = self.replication.in_sync
        self.replication.acknowledged(peer, number)
        if self.replication.in_sync > before:
            self._log.info("peer_in_sync", peer=peer.name)
            self._say_in_sync(peer)
        if self.replication.is_in_sync(peer) and self._has_evicted(peer):
            self._writer.delete("meta", META_EVICTED + peer.node_id)

    # -- after the commit ------------------------------------------------------------------------------------------------------

    def committed(self, changes: bytes, now_ms: int) -> None:
        """Our commit is on disk; `changes` is what it changed, empty if nothing of it is the peers' business."""
        last = self._writer.seq
        for peer in self.peers.values():
            state = self.replication.peers.get(peer)
            if changes and state is not None and state.sending and peer.snapshot is None and state.sent == last - 1:
                self._send_changes(peer, last, bytes(changes), True)
        self.replication.committed(last)
        if changes:
            self.times.committed(last, now_ms, min((self.had(peer) for peer in self.peers.values()), default=last - 1))
        self._commits.answer()
        self.digests.tell()

    def catch_up(self) -> bool:
        """Send more to those who lack something; True if there is more to do at once."""
        more = not self._full() and self.digests.send_repairs()
        for peer in self.peers.values():
            if not self.replication.wants(peer) and peer.snapshot is None:
                continue
            state = self.replication.peers.get(peer)
            if state is None or not state.sending or self._full():
                continue
            missed = None if peer.snapshot is not None else self._writer.missed(state.sent, PART_BYTES)
            if missed is None:
                self._send_snapshot(peer)
            else:
                for number, changes in missed:
                    self._send_changes(peer, number, changes, False)
            more = True
        return more

    def _full(self) -> bool:
        return self.link is None or len(self.link.output) > 16 * PART_BYTES

    def _send_snapshot(self, peer: Peer) -> None:
        database, after, began = peer.snapshot or (0, b"", self._writer.context())
        context, end = self._writer.covered.behind((database, after), self._writer.context())
        if (database, after) == (0, b""):
            peer.bodies.clear()
        part, last, until = self._writer.snapshot(database, after, PART_BYTES, *end, peer.bodies, self.had(peer), began)
        burials = self._writer.burials() if (database, after) == (0, b"") else []
        self._say(peer, Say.SNAPSHOT, _encode((database, after, last, until, context, part, burials)))
        if last < len(REPLICATED):
            peer.snapshot = (last, until, began)
            return
        peer.snapshot = None
        self._say(peer, Say.SNAPSHOT_END, _encode(began))
        self.replication.sent(peer, began[self._number], 0)
        self._speak(peer)

    def _send_changes(self, peer: Peer, number: int, changes: bytes, is_new: bool) -> None:
        self._say(peer, Say.CHANGES, _encode((number, self._writer.context(), changes, is_new)))
        self.replication.sent(peer, number, len(changes))
        self._speak(peer)

    def send(self, peer: Peer, kind: int, message: Any) -> None:
        """A frame of the directory's outbox; not before the commits that it follows."""
        peer.to_say.append((self._writer.seq, Say(kind + 10), _encode(message)))
        self._speak(peer)

    def _speak(self, peer: Peer) -> None:
        state = self.replication.peers.get(peer)
        while peer.to_say and state is not None and state.sending and state.sent >= peer.to_say[0][0]:
            _, say, message = peer.to_say.popleft()
            self._say(peer, say, message)

    def _say(self, peer: Peer, say: Say, message: bytes) -> None:
        if self.link is not None:
            self.link.queue(PEER, peer.node_id + bytes([say]) + message)

    def trim(self) -> None:
        """Forget what all peers have, or what one has been away for too long to get piece by piece."""
        self.tail.goes_without([peer for peer in self.peers.values() if not self.replication.waits_for(peer)])
        seq, had = self._writer.seq, min(map(self.had, self.peers.values()), default=0)
        if (until := max(min(had, seq - sources.SPARE_COMMITS), seq - sources.KEPT_COMMITS)) > 0:
            self._writer.trim(until, TRIM)
        self._writer.forget_burials(TRIM)
        away = [self.had(peer) for peer in self.peers.values() if not self.replication.is_in_sync(peer)]
        is_apart = self.degraded or (self.link is not None and not self.has_all())
        self._writer.set_apart(is_apart, self._members.may_return, max(away, default=had or seq), TRIM)
