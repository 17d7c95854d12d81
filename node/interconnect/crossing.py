"""Live messages between hosts: for each worker the interconnect is one more sibling, which has all that other hosts want.

    our workers' filters   merged, and each change told to the other hosts: CHANGES, all of them at `up`
    their filters          merged, and each change told to our workers: ROUTES
    a worker's messages    to the hosts with a filter that matches; of a shared group to one host: MESSAGES
    a host's messages      to our workers with a filter that matches, to one of a group. They are not passed on to a third host
    a group without members  where the message went: a worker chooses again, and knows by then that they have left
    a worker's HOLD        told to the other hosts, and by them to their workers, whose publishers wait: HOLDS
    a worker's `sync`      answered when every host that is up has told it to its workers: SYNC, SYNCED; after 5 s at most
    a worker's `barrier`   likewise, with BARRIER in the number, which makes their workers wait for what they have not committed

MESSAGES: `<Q` store clock of the sender, then the records of a PUBLISH frame. A message expires as long after its arrival as it
would have after it was sent: too late by the time under way. TAKEN: `<Q` bytes of them that workers were given since the last one.
With WINDOW_BYTES that a host has not taken, publishers wait for a second; then messages for it are dropped and counted until it
takes some again. So neither much memory nor the keepers' frames ever wait for live messages. Nothing of this is stored.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gevent

from node import counters
from node.core.forwarded import count, split
from node.interconnect.holds import Holds
from node.interconnect.routes import Routes
from node.interconnect.worker_link import WorkerLink
from node.peers import PUBLISH, REQUEST, Countdown, decode, reply

ROUTES, HOLD = 8, 9  # frames of workers
MESSAGES, CHANGES, SYNC, SYNCED, HOLDS, TAKEN = KINDS = (16, 17, 18, 19, 20, 21)  # frames between interconnects
WINDOW_BYTES = 4 << 20  # of messages that a host has not taken
TAKEN_BYTES = WINDOW_BYTES // 4  # before it says so
WORKER_BYTES = 1 << 20  # that wait for one of our workers before we take no more
FULL_S = 0.002
PATIENCE_S = 1.0
SYNC_S = 5.0  # a host that is silent is evicted before
ROUTES_BYTES = 1 << 20
BARRIER = 1 << 63
_CLOCK = _NUMBER = struct.Struct("<Q")

Send = Callable[..., bool]  # of a host's id, a kind, and the parts of a body


class _Host:
    """A peer that is up, and what it must get in order: routes, and questions about them."""

    def __init__(self, node_id: bytes, send: Send) -> None:
        self.node_id = node_id
        self.up = True
        self.taking = True  # messages; else they are dropped at once
        self.untaken_bytes = 0  # of messages to it
        self.arrived_bytes = 0  # of messages from it since our last TAKEN
        self._send = send
        self._waiting: deque[tuple[int, bytes]] = deque()

    def tell(self, kind: int, body: bytes) -> None:
        self._waiting.append((kind, body))
        if len(self._waiting) == 1 and not self._flush():
            gevent.spawn(self._keep_flushing)

    def _flush(self) -> bool:
        while self._waiting and self._send(self.node_id, *self._waiting[0]):
            self._waiting.popleft()
        return not self._waiting

    def _keep_flushing(self) -> None:
        while self.up and not self._flush():
            gevent.sleep(FULL_S)


class Crossing:
    def __init__(self, run_dir: Path, workers: int, send: Send) -> None:
        self.clock_offset_ms = 0
        self.slot = memoryview(bytearray(counters.SLOT_BYTES)).cast("Q")
        self._paths = [run_dir / f"worker-{index}.sock" for index in range(workers)]
        self._send = send
        self._links: list[WorkerLink] = []
        self._here: Routes[WorkerLink] = Routes()
        self._held_here: Holds[WorkerLink] = Holds()
        self._hosts: dict[bytes, _Host] = {}
        self._there: Routes[_Host] = Routes()
        self._held_there: Holds[_Host] = Holds()
        self._syncs: dict[int, _Sync] = {}
        self._last_sync = 0

    # -- our workers --------------------------------------------------------------------------------------------------------

    @property
    def has_workers(self) -> bool:
        return any(link.is_connected for link in self._links)

    def connected(self, link: WorkerLink) -> None:
        for routes in _frames(self._there.everything()):
            link.send(ROUTES, routes)
        for topic in self._held_there.topics():
            link.send(HOLD, topic)

    def lost(self, link: WorkerLink) -> None:
        self.sent()
        self._tell_hosts(CHANGES, *_frames(self._here.forget(link)))
        self._tell_hosts(HOLDS, *self._held_here.change(link, b""))

    def _tell_workers(self, kind: int, *bodies: bytes) -> None:
        for link in self._links:
            for body in bodies:
                link.send(kind, body)

    def frame(self, link: WorkerLink, kind: int, body: bytes) -> None:
        if kind == ROUTES:
            self._tell_hosts(CHANGES, *_frames(self._here.change(link, body)))
        elif kind == PUBLISH:
            self._publish(link, body)
        elif kind == HOLD:
            self._tell_hosts(HOLDS, *self._held_here.change(link, body))
        elif kind == REQUEST:
            number, method, _ = decode(body)
            self._sync(method, lambda: reply(link, number, True, True))

    def _publish(self, link: WorkerLink, messages: bytes) -> None:
        hosts = list(self._hosts.values())
        if len(hosts) == 1:
            self._to_host(hosts[0], messages)
            return
        back: tuple[_Host | WorkerLink, ...] = (link,)
        parts = split(messages, self._there.places_of, lambda *group: self._there.member_of(*group) or back)
        for place, part in parts.items():
            if isinstance(place, _Host):
                self._to_host(place, part)
            else:
                place.publish(part)

    def _to_host(self, host: _Host, messages: bytes | bytearray) -> None:
        """Wait for room, which makes this worker's publishers wait; but not for long."""
        deadline = time.monotonic() + (PATIENCE_S if host.taking else 0)
        while host.up:
            clock = _CLOCK.pack(self._now_ms())
            if host.untaken_bytes < WINDOW_BYTES and self._send(host.node_id, MESSAGES, clock, messages):
                host.untaken_bytes += len(clock) + len(messages)
                host.taking = True
                return
            if time.monotonic() >= deadline:
                host.taking = False
                break
            gevent.sleep(FULL_S)
        self.slot[counters.INDEX["dropped_interconnect"]] += count(messages)

    # -- the other hosts ----------------------------------------------------------------------------------------------------

    def peer_up(self, node_id: bytes) -> None:
        if not self._links:  # a host alone needs none
            self._links = [WorkerLink(path, self) for path in self._paths]
        host = self._hosts[node_id] = _Host(node_id, self._send)
        for routes in _frames(self._here.everything()):
            host.tell(CHANGES, routes)
        for topic in self._held_here.topics():
            host.tell(HOLDS, topic)

    def interested(self, topic: bytes, own_id: bytes) -> set[bytes]:
        """The hosts with a filter or a member of a shared group that matches."""
        found = {host.node_id for host in self._there.all_of(topic)}
        return found | {own_id} if self._here.all_of(topic) else found

    def peer_down(self, node_id: bytes) -> None:
        host = self._hosts.pop(node_id, None)
        if host is not None:
            host.up = False
            self._tell_workers(ROUTES, *_frames(self._there.forget(host)))
            self._tell_workers(HOLD, *self._held_there.change(host, b""))
            for sync in list(self._syncs.values()):
                sync.answered(host)

    def _tell_hosts(self, kind: int, *bodies: bytes) -> None:
        for host in self._hosts.values():
            for body in bodies:
                host.tell(kind, body)

    def peer_frame(self, node_id: bytes, kind: int, body: bytes) -> None:
        host = self._hosts.get(node_id)
        if host is None:
            return
        if kind == MESSAGES:
            self._arrived(body)
            host.arrived_bytes += len(body)
            if host.arrived_bytes >= TAKEN_BYTES:
                self.sent()
        elif kind == TAKEN:
            host.untaken_bytes -= _NUMBER.unpack(body)[0]
        elif kind == CHANGES:
            self._tell_workers(ROUTES, *_frames(self._there.change(host, body)))
        elif kind == HOLDS:
            self._tell_workers(HOLD, *self._held_there.change(host, body))
        elif kind == SYNC:
            method = "barrier" if _NUMBER.unpack(body)[0] & BARRIER else "sync"
            self._ask_workers(method, lambda: host.tell(SYNCED, body))
        elif kind == SYNCED:
            sync = self._syncs.get(_NUMBER.unpack(body)[0])
            if sync is not None:
                sync.answered(host)

    def _arrived(self, body: bytes) -> None:
        later_ms = self._now_ms() - _CLOCK.unpack_from(body)[0]
        messages = memoryview(body)[_CLOCK.size :]
        anyone = tuple(link for link in self._links if link.is_connected)[:1]

        def member_of(*group: Any) -> tuple[WorkerLink, ...]:
            return self._here.member_of(*group) or anyone

        for link, part in split(messages, self._here.places_of, member_of, later_ms).items():
            link.publish(part)

    def sent(self) -> None:
        """Something was written to a worker: take more, unless too much still waits for one of them."""
        if any(link.waiting_bytes > WORKER_BYTES for link in self._links):
            return
        for host in self._hosts.values():
            if host.arrived_bytes >= TAKEN_BYTES:
                host.tell(TAKEN, _NUMBER.pack(host.arrived_bytes))
                host.arrived_bytes = 0

    def _now_ms(self) -> int:
        """The store clock."""
        return time.monotonic_ns() // 1_000_000 + self.clock_offset_ms

    # -- does everybody know our routes? ------------------------------------------------------------------------------------

    def _sync(self, method: str, done: Callable[[], None]) -> None:
        self._last_sync += 1
        number = self._last_sync | (BARRIER if method == "barrier" else 0)

        def finished(known: bool) -> None:
            self._syncs.pop(number, None)
            self.slot[counters.INDEX["routes_unconfirmed"]] += not known
            done()

        if not self._hosts:
            done()
            return
        hosts = list(self._hosts.values())
        self._syncs[number] = _Sync(hosts, finished)
        for host in hosts:
            host.tell(SYNC, _NUMBER.pack(number))

    def _ask_workers(self, method: str, done: Callable[[], None]) -> None:
        waiting = Countdown(done)
        for link in self._links:
            link.requests.call(method, {}, waiting.one_more())
        waiting.start()


class _Sync:
    """Waits for the answers of these hosts, but not longer than SYNC_S. `done(known)`: have they all answered?"""

    def __init__(self, hosts: list[_Host], done: Callable[[bool], None]) -> None:
        self._missing = set(hosts)
        self._done = done
        self._late = gevent.spawn_later(SYNC_S, self._finish)

    def answered(self, host: _Host) -> None:
        if host in self._missing:
            self._missing.discard(host)
            if not self._missing:
                self._late.kill(block=False)
                self._done(True)

    def _finish(self) -> None:
        self._missing.clear()
        self._done(False)


def _frames(records: Iterable[bytes]) -> Iterator[bytes]:
    """Joined to bodies of about ROUTES_BYTES."""
    body = bytearray()
    for record in records:
        body += record
        if len(body) >= ROUTES_BYTES:
            yield bytes(body)
            body.clear()
    if body:
        yield bytes(body)
