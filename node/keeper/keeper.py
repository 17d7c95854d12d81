"""The keeper: `python -m node.keeper --config FILE`. The only writer of the host's store.

One turn: take what all links have sent (bounded), apply it in one LMDB transaction, commit and fsync, and only then send
COMMITTED, WAKE, replies and requests. Nothing else in this process takes time, so the commit runs inline: a busy Python
process with a commit thread is slower (guarantees.md, trap 2). After an error of the disk it stops, acknowledging nothing
(fail-stop): exit 74 for an I/O error, 75 when supervisord should start it again at once, 78 when the store cannot be used.
"""

from __future__ import annotations

import faulthandler
import select
import signal
import struct
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from node import counters, log, process
from node.begin import begin
from node.config import Config, run_dir, worker_count
from node.keeper import counts
from node.keeper.end import begins_anew, ended, failed
from node.keeper.heals import Heals
from node.keeper.joining import Joining
from node.keeper.link import LOST, Link, listen
from node.keeper.replicas import PEER, Replicas
from node.keeper.room import set_full
from node.keeper.settings import Settings
from node.mqtt.client import JOINING
from node.sessions.claim import Claim
from node.sessions.directory import Directory
from node.sessions.outbox import EVENT, REPLY, REQUEST
from storage.disk import Disk
from storage.layout import META_INSTANCE, REFUSAL, StoreError, store_path, u64
from storage.store import Store, damaged, open_store
from storage.writer import Writer

HELLO, OPS, COMMITTED, WAKE = 0, 1, 2, 3
BEAT_MS = 500
TURN_BYTES = 8 << 20  # taken from all links in one turn
READER_CHECK_S = 10
SWEEP_MS = 600_000
SETTLE_MS = 20
HELD_MAX = 10_000  # turns; a strict host that is alone then refuses clients with durable sessions
DISK_CHECK_S = 1
DISK_CHECK_BYTES = 1 << 20
EXIT_STORE = 78

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


class Keeper:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.log = log.logger("keeper")
        self.run_dir = run_dir(config)
        self.slot = counters.Counters(self.run_dir / "counters").claim(counters.KEEPER)
        self.crash = (Path(config.node.data_dir) / "keeper.crash").open("a+b")  # what ended an earlier keeper
        self.disk = Disk(Path(config.node.data_dir), config.store.ballast_bytes, config.store.disk_high_water_percent)
        self.poll = select.epoll()
        self.links: dict[int, Link] = {}
        self.stopping = False
        self.last_disk_check = self.last_reader_check = 0.0
        self.swept_ms = 0
        self.unchecked_bytes = 0  # of input since the last look at the disk
        # What waits until peers have a commit: its number, how many operations it acknowledges, since when, frames
        self.held: deque[tuple[int, int, int, list[tuple[Link, int, bytes]]]] = deque()
        self.more_to_send = False
        self.is_over = False  # the store's time: its host has left, and all is on the others

    def open(self) -> None:
        """Read the store, then listen. Raises StoreError, and what `run` raises."""
        with counters.beating(self.slot):
            self.store = self._open_store()
            try:
                self.writer = Writer(
                    self.store.environment, self.store.databases, self.config.limits, self.store.number
                )
                self.writer.drops_orphans = self.config.cluster.on_owner_down == "drop"
                heals = Heals(self.writer, self.log)
                workers, beat = worker_count(self.config), partial(counters.beat, self.slot)
                self.directory = Directory(self.writer, self.store.number, workers, heals, beat)
                strict = self.config.cluster.ack_policy == "strict"
                self.replicas = replicas = Replicas(self.writer, self.directory, self.store.number, strict, self.log)
                self.joining = Joining(self)
                self.settings = Settings(
                    self.store, self.writer, self.directory.outbox, self.config.node.data_dir, self.log
                )
                who = (
                    replicas.members,
                    replicas.peer_up,
                    replicas.peer_down,
                    replicas.peer_left,
                    replicas.tail.stood_still,
                )
                # What the interconnect process tells, by the name of the event
                self.tells = {each.__name__: each for each in (*who, self.joining.belongs_to)}
                self.directory.elsewhere.retired |= self.store.former
                self.last_seq = self.writer.seq
                contents = self.store.contents()
                self.clock_offset_ms = self.store.start_clock(
                    time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000, process.boot_id()
                )
                self.directory.load(*contents, self.now_ms())
            except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, msgspec.MsgspecError) as error:
                raise damaged(self.store.path, error) from error
        self.started_ms = self.now_ms()
        self.writer.is_settling = bool(self.config.interconnect.bind)
        self.listening = listen(self.run_dir / "keeper.sock")
        self.poll.register(self.listening, select.EPOLLIN)

    def _open_store(self) -> Store:
        """On damaged pages LMDB may end the process by a signal. The trace that this leaves makes us look at them first."""
        config, path = self.config, store_path(self.config.node.data_dir)
        self.crash.seek(0)
        trace = self.crash.read(2048).decode(errors="replace")
        faulthandler.enable(self.crash)
        if trace:
            self.log.warning(
                "store_suspect", cause="an error ended the last keeper", effect="every page of the store is checked first",
                next="if it starts now, the disk or mqnode is at fault: report this trace", trace=trace,
            )  # fmt: skip
        store = open_store(path, config.store.map_bytes, config.store.max_map_bytes, suspect=bool(trace))
        self.crash.truncate(0)
        return store

    def now_ms(self) -> int:
        """The store clock."""
        return time.monotonic_ns() // 1_000_000 + self.clock_offset_ms

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Until SIGTERM; the exit code. Raises lmdb.Error and OSError of the disk."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))
        self._check_disk(0)  # one that a full disk ended must not be called ready
        self.log.info("ready", store=str(self.store.path), sessions=len(self.directory.sessions))
        self.slot[counters.INDEX["ready"]] = 1
        while not begins_anew(self) and (not self.stopping or self._has_input()):
            self.turn()
        return ended(self)

    def _has_input(self) -> bool:
        """While stopping: is anything of the workers still on its way?"""
        return time.monotonic() <= self._stop_deadline and bool(self.links)

    _stop_deadline = float("inf")

    def turn(self) -> None:
        counters.beat(self.slot)
        if self.stopping and self._stop_deadline == float("inf"):
            self._stop_deadline = time.monotonic() + 3
        frames = self._receive()
        if self.replicas.tail.is_left_behind:
            return
        now_ms = self.now_ms()
        input_bytes = sum([len(body) for _, _, body in frames])
        self._check_disk(input_bytes)
        due_ms = self.directory.next_due_ms()
        if not frames and (due_ms is None or due_ms > now_ms):
            self._reach_peers()
            return
        self.store.make_room(input_bytes)
        self.writer.begin()
        self.directory.tick(now_ms)
        for link, kind, body in frames:
            counters.beat(self.slot)  # many claims, or parts of snapshots of several hosts, may take seconds together
            self._take(link, kind, body, now_ms)
        if self.replicas.old_copy.is_found:  # other hosts have another commit of this number
            self.writer.abort()
            return
        if self.writer.is_settling and self.replicas.is_settled(now_ms - self.started_ms):
            self.writer.settle()
            self.replicas.say_in_sync()  # again: now this host serves
            self.replicas.old_copy.serves(not self.directory.elsewhere.peers)
        self.joining.look()
        for will_id in self.writer.fired_wills:
            self.directory.wills.fired(will_id)
        self.replicas.trim()
        if now_ms - self.swept_ms > SWEEP_MS:
            self.swept_ms = now_ms
            self.writer.sweep()
        self._commit()
        self._report()

    def _receive(self) -> list[tuple[Link, int, bytes]]:
        frames: list[tuple[Link, int, bytes]] = []
        due_ms = self.directory.next_due_ms()
        timeout_s = BEAT_MS / 1000 if due_ms is None else max(0, min(BEAT_MS, due_ms - self.now_ms())) / 1000
        if self.more_to_send:
            timeout_s = 0
        received = 0
        until = time.monotonic() + timeout_s
        ready = self.poll.poll(timeout_s)
        self.replicas.tail.stood_still(time.monotonic() - until, self.now_ms())
        for descriptor, events in ready:
            if descriptor == self.listening.fileno():
                self._accept()
                continue
            link = self.links[descriptor]
            if events & select.EPOLLOUT:
                self._flush(link)
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                count, came = link.receive()
                frames += [(link, kind, body) for kind, body in came]
                received += count
                if received > TURN_BYTES:
                    break
        return frames

    def _accept(self) -> None:
        connected, _ = self.listening.accept()
        self.links[connected.fileno()] = Link(connected)
        self.poll.register(connected, select.EPOLLIN)

    def _take(self, link: Link, kind: int, body: bytes, now_ms: int) -> None:
        if kind == OPS:
            batch = int.from_bytes(body[:8], "little")
            if batch > link.applied:  # else it was committed before our restart
                before = len(self.writer.refused)
                self.writer.welcome_ms = link.welcome_ms
                self.writer.apply(body, link.index, link.instance, now_ms, link.refused)
                link.refused += self.writer.refused[before:]
                link.applied = batch
        elif kind == REQUEST:
            number, method, arguments = _decode(body)
            if method == "peers":
                copies = counts.describe_copies(self.store.number, self.writer, self.replicas, now_ms)
                link.queue(REPLY, _encode([number, True, copies]))
            elif method == "end_store":
                self.is_over = bool(self.writer.known or self.directory.sessions)
                link.queue(REPLY, _encode([number, True, self.is_over]))
            elif method == "claim" and len(self.held) > HELD_MAX and Claim(*arguments).expiry_s:
                link.queue(REPLY, _encode([number, False, "no other host confirms what is stored here"]))
            elif method == "claim" and self.joining.is_on:
                link.queue(REPLY, _encode([number, False, JOINING]))
            else:
                self.directory.requests.take(link, number, method, arguments, now_ms)
        elif kind == REPLY:
            self.directory.outbox.answered(*_decode(body))
        elif kind == PEER:
            self.replicas.frame(body, now_ms)
        elif kind == EVENT:
            method, arguments = _decode(body)
            self.tells[method](**arguments, now_ms=now_ms)
        elif kind == HELLO:
            self._hello(link, _decode(body), now_ms)
        elif kind == LOST:
            self._lost(link, now_ms)

    def _hello(self, link: Link, hello: dict[str, Any], now_ms: int) -> None:
        link.role = hello["role"]
        about = {"incarnation": self.store.incarnation, "clock_offset_ms": self.clock_offset_ms}
        if link.role == "interconnect":
            self.replicas.connected(link, hello["members"])
            self.joining.belongs_to(hello["cluster"], not hello["members"], now_ms)
            for node_id in hello["left"]:
                self.replicas.peer_left(node_id, now_ms)
            link.queue(EVENT, _encode(["welcome", about]))
        if link.role != "worker" or link.socket.fileno() not in self.links:  # lost while it waited
            return
        self.directory.elsewhere.tell(link, hello["loaded"])
        if self.writer.is_settling:
            self.directory.timers.at(now_ms + SETTLE_MS, lambda later_ms: self._hello(link, hello, later_ms))
            return
        link.welcome_ms = now_ms  # so long it has kept what it received
        link.index, link.instance = hello["index"], hello["instance"]
        stored = self.writer.get("meta", META_INSTANCE + u64(link.index))
        if stored is not None and stored[:8] == u64(link.instance):
            link.applied = link.committed = int.from_bytes(stored[8:16], "big")
            link.refused = list(REFUSAL.iter_unpack(stored[16:]))
        stalled = self.replicas.is_stalled
        if stalled or link.refused:
            # COMMITTED says it: when peers have them, too, and with those that were refused
            link.committed = 0
        welcome = {"store": self.store.number, "committed": link.committed, **about}
        self.directory.outbox.event(link, "welcome", welcome, urgent=stalled)
        self.directory.worker_came(link, hello["clients"], now_ms)

    def _lost(self, link: Link, now_ms: int) -> None:
        descriptor = link.socket.fileno()
        if descriptor < 0:
            return
        self.poll.unregister(descriptor)
        del self.links[descriptor]
        link.socket.close()
        self.replicas.disconnected(link, now_ms)
        self.directory.worker_left(link, now_ms)

    # -- commit and what follows ------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        started = time.perf_counter_ns()
        self.writer.commit()
        if self.writer.operations:
            counts.count_commit(self.slot, self.writer.operations, time.perf_counter_ns() - started)

    def _report(self) -> None:
        """Everything is durable here: what it allows is said when the peers in sync have it, too."""
        said: list[tuple[Link, int, bytes]] = []
        for link in self.links.values():
            if link.applied > link.committed:
                refused = [REFUSAL.pack(*each) for each in link.refused if each[0] > link.committed]
                said.append((link, COMMITTED, struct.pack("<QI", link.applied, len(refused)) + b"".join(refused)))
                link.committed = link.applied
        self.settings.committed()
        for link, kind, message in self.directory.outbox.take_urgent():
            link.queue(kind, _encode(message))
        changed = self.writer.seq > self.last_seq
        self.replicas.committed(self.writer.changes if changed else b"", self.now_ms())
        self.last_seq = self.writer.seq
        for link, kind, message in self.directory.outbox.take():
            if isinstance(link, Link):
                said.append((link, kind, _encode(message)))
            else:
                self.replicas.send(link, kind, message)
        said += self._wakes()  # behind the replies: to who was granted a session in this turn, too
        if said or changed:
            operations = self.writer.operations if changed else 0
            self.held.append((self.writer.seq, operations, time.perf_counter_ns(), said))
        counts.count(self.slot, self.writer, self.directory)  # before anybody hears of it
        self._reach_peers()

    def _reach_peers(self) -> None:
        """Send peers what they lack, and release what they have confirmed."""
        self.more_to_send = self.replicas.catch_up()
        counts.show_copies(self.slot, self.replicas)
        self.slot[counters.INDEX["settling"]] = int(self.writer.is_settling)
        released = self.replicas.replication.released
        while self.held and self.held[0][0] <= released:
            _, acknowledged, since_ns, said = self.held.popleft()
            if self.replicas.peers:
                counts.count_latency(self.slot, "ack_replica", acknowledged, time.perf_counter_ns() - since_ns)
            for link, kind, body in said:
                link.queue(kind, body)
                if kind == COMMITTED:
                    link.said = int.from_bytes(body[:8], "little")
            if self.replicas.degraded:
                self.slot[counters.INDEX["solo_acks"]] += acknowledged
        for link in list(self.links.values()):
            if link.output:
                self._flush(link)

    def _wakes(self) -> list[tuple[Link, int, bytes]]:
        by_link: dict[Link, bytearray] = {}
        for sid, qseq in self.writer.wakes():
            record = self.directory.by_sid.get(sid)
            owner = self.directory.owners.get(record.client_id) if record is not None else None
            if owner is not None:
                by_link.setdefault(owner.link, bytearray()).extend(struct.pack("<QQ", sid, qseq))
        return [(link, WAKE, bytes(body)) for link, body in by_link.items()]

    def _flush(self, link: Link) -> None:
        descriptor = link.socket.fileno()
        if descriptor < 0:
            return
        is_sent = link.flush()
        self.poll.modify(descriptor, select.EPOLLIN if is_sent else select.EPOLLIN | select.EPOLLOUT)
        if is_sent and link.refused:
            link.refused = [each for each in link.refused if each[0] > link.said]

    def _check_disk(self, input_bytes: int) -> None:
        now = time.monotonic()
        self.unchecked_bytes += input_bytes
        if now - self.last_disk_check > DISK_CHECK_S or self.unchecked_bytes > DISK_CHECK_BYTES:
            self.last_disk_check, self.unchecked_bytes = now, 0
            set_full(self, self.disk.check(self.store.reusable_bytes()), self.store.at_limit())
            self.slot[counters.INDEX["store_map_bytes"]] = self.store.map_bytes()
            self.slot[counters.INDEX["store_used_bytes"]] = self.store.used_bytes()
            self.slot[counters.INDEX["store_readers"]] = self.store.readers()
            self.slot[counters.INDEX["subscriptions"]] = self.store.entries("subs")
        elif input_bytes and not self.writer.full and self.store.at_limit():
            set_full(self, False, True)
        if now - self.last_reader_check > READER_CHECK_S:
            self.last_reader_check = now
            self.store.environment.reader_check()


def main(arguments: list[str]) -> int:
    keeper = Keeper(begin("keeper", arguments))
    try:
        keeper.open()
        return keeper.run()
    except StoreError as error:
        keeper.log.critical("store_unusable", cause=str(error))
        time.sleep(1)  # supervisord starts us again at once; the answer will be the same
        return EXIT_STORE
    except (lmdb.Error, OSError) as error:
        return failed(keeper, error)
