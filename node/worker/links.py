"""A worker's links to the keeper and to its siblings: dialled, dialled again, and what arrives on them handed on.

Of two workers the one with the higher index dials. What the core moves itself (operations, messages, routes) never gets here.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from mesh import greenlets
from node.config import worker_count
from node.core.loop import Link
from node.peers import CROSSING, EVENT, HELLO, REPLY, REQUEST, Peer, decode, encode
from node.siblings import greeted
from storage.layout import store_path
from storage.reader import Reader

if TYPE_CHECKING:
    from node.worker.worker import Worker

RETRY_S = 0.05
SIBLING_WAIT_S = 1.0  # for siblings at start: one that is slow or dead must not keep this worker from serving


class Links:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = worker.loop
        self._instance = random.getrandbits(63)
        self.keeper = Peer(repeat=True)
        self._keeper_link: Link | None = None
        self._welcomed = Event()
        self._store = 0  # its number, once the keeper has said it
        self._lost = Event()  # a link that we dial is missing
        self.siblings: dict[int, Peer] = {}

    def run(self) -> None:
        """Keep all links from now on; returns when the keeper has said welcome and the siblings are there, or late."""
        greenlets.spawn(self._keep)
        self._welcomed.wait()
        self._lost.set()
        self._wait_for_siblings()

    @property
    def sibling_count(self) -> int:
        return sum(peer.link is not None for index, peer in self.siblings.items() if index != CROSSING)

    def _wait_for_siblings(self) -> None:
        expected = worker_count(self._worker.config) - 1
        deadline = time.monotonic() + SIBLING_WAIT_S
        while time.monotonic() < deadline:
            if self.sibling_count == expected:
                return
            gevent.sleep(0.01)

    def _dial(self, name: str) -> socket.socket | None:
        dialling = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            dialling.connect(os.fspath(self._worker.run_dir / name))
        except OSError:
            dialling.close()
            return None
        dialling.setblocking(False)
        return dialling

    def _keep(self) -> None:
        """Connect to the keeper, and once it has said welcome to the siblings; again whenever one is lost."""
        while not self._worker.stopping:
            found = [self._dial_keeper()]
            if self._welcomed.is_set():
                found += [self._dial_sibling(index) for index in range(self._worker.index)]
            if all(found):
                self._lost.clear()
                self._lost.wait()
            else:
                gevent.sleep(RETRY_S)

    def _dial_keeper(self) -> bool:
        """Is the keeper linked?"""
        if self._keeper_link is None:
            dialled = self._dial("keeper.sock")
            if dialled is None:
                return False
            self._keeper_link = self._loop.link(dialled.detach(), "keeper")
            self._keeper_link.send(HELLO, encode(self._hello()))
        return True

    def _hello(self) -> dict[str, Any]:
        now_s = int(time.time())
        clients = [
            [client_id, connection.number, connection.session.sid, max(0, now_s - connection.connected_at)]
            for client_id, connection in self._worker.clients.items()
            if connection.session is not None
        ] + list(self._worker.leaving.values())  # those of whom the keeper before has not heard that they are gone
        return {
            "role": "worker", "index": self._worker.index, "instance": self._instance, "clients": clients,
            "loaded": self._worker.reader is not None,
        }  # fmt: skip

    def _dial_sibling(self, index: int) -> bool:
        """Is the sibling linked?"""
        peer = self.siblings.get(index)
        if peer is None or peer.link is None:
            dialled = self._dial(f"worker-{index}.sock")
            if dialled is None:
                return False
            try:
                with greeted(dialled, self._worker.index) as memory:
                    link = self._loop.link(dialled.detach(), "worker", index)
                    link.share_memory(memory)
            except OSError:
                dialled.close()
                return False
            self._use_sibling(link, index)
        return True

    def _use_sibling(self, link: Link, index: int) -> None:
        peer = self.siblings.setdefault(index, Peer(repeat=False))
        if peer.link is not None:
            peer.link.close()  # type: ignore[attr-defined]
        link.identify("worker", index)
        self._loop.use_sibling(link, index)
        peer.connected(link)

    def frame(self, link: Link, kind: int, body: bytes) -> None:
        """A frame that the core does not handle itself."""
        if kind == REPLY:
            peer = self.keeper if link is self._keeper_link else self.siblings[link.index]
            peer.answered(body)
        elif kind == REQUEST:
            number, method, arguments = decode(body)
            self._worker.requests.handle(link, number, method, arguments)
        elif kind == EVENT:
            method, arguments = decode(body)
            if method == "welcome":
                self._welcome(link, arguments)
            else:
                self._worker.requests.event(method, arguments)
        elif kind == HELLO:
            hello = decode(body)
            if hello["role"] == "worker":
                link.use_passed_memory()
                self._use_sibling(link, hello["index"])
            else:
                link.identify(hello["role"], -1)

    def _welcome(self, link: Link, arguments: dict[str, Any]) -> None:
        self._loop.clock_offset_ms = arguments["clock_offset_ms"]
        if self._store not in (0, arguments["store"]):
            self._worker.log.info("store_is_new", effect="this worker starts anew: what it knows is of the old one")
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self._store = arguments["store"]
        if self._worker.reader is None:
            self._worker.reader = Reader(store_path(self._worker.config.node.data_dir))
            self._loop.reader = self._worker.reader
            for sid, client_id, user, filter, options, identifier in self._worker.reader.subscriptions():
                self._worker.requests.set_subscription(sid, client_id, user, filter, options, identifier)
        self._worker.settings.take_over()
        self._loop.use_keeper(link, arguments["committed"])
        self.keeper.connected(link)
        self._welcomed.set()

    def closed(self, link: Link) -> None:
        if link is self._keeper_link:
            self._keeper_link = None
            self._lost.set()
            had_it = self.keeper.link is not None  # else it died before its welcome, and that was said already
            self.keeper.lost()
            if had_it and not self._worker.stopping:
                self._worker.log.warning(
                    "keeper_lost", effect="nothing is acknowledged until it is back", next="mqnode status"
                )
        elif link.role == "worker" and link.index in self.siblings:
            sibling = self.siblings[link.index]
            if sibling.link is link:
                sibling.lost()
                self._lost.set()
