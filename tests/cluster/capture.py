"""What passes an interface, counted: TCP segments and UDP datagrams that carry data, by who sent them to whom."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field

_ETH_P_ALL, _ETH_P_IP = 3, 0x0800
_SO_RCVBUFFORCE, _SOL_PACKET, _PACKET_STATISTICS = 33, 263, 6
_BUFFER_BYTES = 64 << 20
_HEADERS_BYTES = 128  # IP and TCP with all their options
_DRAIN_S = 0.05


@dataclass(frozen=True)
class Flow:
    protocol: int  # socket.IPPROTO_TCP or IPPROTO_UDP
    source: tuple[str, int]
    target: tuple[str, int]


@dataclass
class Counts:
    """With large receive and segmentation offload, a frame may carry up to 64 KiB."""

    frames: Counter[Flow] = field(default_factory=Counter)
    bytes: Counter[Flow] = field(default_factory=Counter)  # of payload


def tap(interface: str) -> socket.socket:
    """Sees all frames of the interface, in the namespace of the caller."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
    tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    tap.bind((interface, _ETH_P_ALL))
    tap.setblocking(False)
    return tap


class Capture:
    """Counts until it is closed. A capture that lost a frame fails when it is read."""

    def __init__(self, tap: socket.socket) -> None:
        self._tap, self._counts = tap, Counts()
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        self._tap.close()

    def read(self) -> Counts:
        """All that passed up to now."""
        with self._lock:
            self._drain()
            _, lost = struct.unpack("II", self._tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            assert not lost, f"the capture lost {lost} frames"
            return Counts(self._counts.frames.copy(), self._counts.bytes.copy())

    def _run(self) -> None:
        while not self._closing.is_set():
            select.select([self._tap], [], [], _DRAIN_S)
            with self._lock:
                self._drain()

    def _drain(self) -> None:
        while True:
            try:
                head, (_, protocol, *_) = self._tap.recvfrom(_HEADERS_BYTES)
            except BlockingIOError:
                return
            if protocol == _ETH_P_IP:
                self._count(head)

    def _count(self, head: bytes) -> None:
        start = (head[0] & 15) * 4
        protocol, size = head[9], int.from_bytes(head[2:4], "big")
        if protocol == socket.IPPROTO_TCP:
            payload = size - start - (head[start + 12] >> 4) * 4
        elif protocol == socket.IPPROTO_UDP:
            payload = size - start - 8
        else:
            return
        if payload > 0:
            ports = struct.unpack_from(">HH", head, start)
            ends = [(socket.inet_ntoa(head[at : at + 4]), port) for at, port in zip((12, 16), ports, strict=True)]
            flow = Flow(protocol, ends[0], ends[1])
            self._counts.frames[flow] += 1
            self._counts.bytes[flow] += payload
