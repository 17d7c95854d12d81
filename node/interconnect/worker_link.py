"""The interconnect's link to one worker of its host: dialled, dialled again, frames in and out (docs/internals.md)."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import gevent
from gevent import socket
from gevent.event import Event
from gevent.socket import wait_read

from mesh import greenlets
from node.core.slots import Slots
from node.interconnect.outgoing import Outgoing
from node.peers import CROSSING, PUBLISH, REPLY, SLOT, Peer, take_frames
from node.siblings import greeted

RETRY_S = 0.05
RECEIVE_BYTES = 1 << 20
_SLOT = struct.Struct("<II")


class Handler(Protocol):
    def connected(self, link: WorkerLink) -> None: ...
    def frame(self, link: WorkerLink, kind: int, body: bytes) -> None: ...
    def sent(self) -> None: ...
    def lost(self, link: WorkerLink) -> None: ...


class WorkerLink:
    """For the worker a sibling with the index CROSSING. `frame` may block: then this worker's publishers wait in the end."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self.requests = Peer(repeat=False)
        self._path = path
        self._handler = handler
        self._socket: Any = None
        self._slots: Any = None
        self._out = Outgoing()
        self._to_send = Event()
        greenlets.spawn(self._keep)
        greenlets.spawn(self._write)

    @property
    def is_connected(self) -> bool:
        return self._socket is not None

    @property
    def waiting_bytes(self) -> int:
        return len(self._out)

    def send(self, kind: int, body: bytes | bytearray | memoryview) -> None:
        """Lost if the link is, as all that was sent before."""
        if self._socket is not None:
            self._out.add(struct.pack("<IB", len(body), kind), body)
            self._to_send.set()

    def publish(self, messages: bytes | bytearray | memoryview) -> None:
        """A PUBLISH frame, in the memory that both share if there is room."""
        slot = self._slots.put(messages) if self._socket is not None else -1
        if slot >= 0:
            self.send(SLOT, _SLOT.pack(slot, len(messages)))
        else:
            self.send(PUBLISH, messages)

    def _dial(self) -> bool:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(os.fspath(self._path))
            with greeted(link, CROSSING) as memory:
                self._slots = Slots(memory, True)
        except OSError:
            link.close()
            return False
        self._socket = link
        return True

    def _keep(self) -> None:
        while True:
            if not self._dial():
                gevent.sleep(RETRY_S)
                continue
            link = self._socket
            self.requests.connected(self)
            self._handler.connected(self)
            with suppress(OSError):
                self._read(link)
            self._socket = None
            self._out.clear()
            link.close()
            self.requests.lost()
            self._handler.lost(self)
            gevent.sleep(RETRY_S)

    def _read(self, link: Any) -> None:
        buffer, received = bytearray(), memoryview(bytearray(RECEIVE_BYTES))
        while size := link.recv_into(received):
            buffer += received[:size]
            for kind, body in take_frames(buffer):
                if kind == REPLY:
                    self.requests.answered(body)
                elif kind == SLOT:
                    self._handler.frame(self, PUBLISH, self._slots.get(*_SLOT.unpack(body)))
                else:
                    self._handler.frame(self, kind, body)
            wait_read(link.fileno())  # in a flood, too: the transport has its turn

    def _write(self) -> None:
        while True:
            self._to_send.wait()
            self._to_send.clear()
            while self._out and (link := self._socket) is not None:
                try:
                    self._out.write(link)
                except OSError:
                    break
                self._handler.sent()
