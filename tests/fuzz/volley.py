"""Many short connections at once: each sends its bytes in pieces, hears what comes, and leaves in one way or another."""

from __future__ import annotations

import select
import socket
import struct
import time
from random import Random

from tests.mqtt import PUBLISH, parse

LISTEN_S = 0.01


class Caller:
    """One connection that must never hang the test: nothing blocks, every error of the socket is an end."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        self.socket.setblocking(False)
        self.heard = bytearray()
        self.ended = False

    def say(self, data: bytes) -> int:
        """How much of it went: the broker need not read us."""
        try:
            return 0 if self.ended else self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.ended = True
            return 0

    def hear(self) -> None:
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.heard += data
        self.ended |= not data

    def leave(self, rng: Random) -> None:
        """Politely, by a reset, or half."""
        how = rng.randrange(3)
        if how == 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == 1 and not self.ended:
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.ended = True
        self.socket.close()


def cut(rng: Random, data: bytes) -> list[bytes]:
    """In one piece, in a few, or (its beginning) byte by byte."""
    how = rng.randrange(4)
    if how < 2 or len(data) < 2:
        return [data]
    if how == 2:
        marks = sorted(rng.randrange(len(data)) for _ in range(3))
        return [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True)]
    return [data[at : at + 1] for at in range(min(len(data), 40))] + [data[40:]]


def fire(rng: Random, port: int, streams: list[bytes], greeting: bytes = b"") -> list[bytes]:
    """Each of `streams` over a connection of its own, all at once; what each heard. A `greeting` is answered first."""
    callers = [Caller(port) for _ in streams]
    if greeting:
        _greet(callers, greeting)
    left = [(caller, cut(rng, stream)) for caller, stream in zip(callers, streams, strict=True)]
    while left:
        caller, pieces = turn = rng.choice(left)
        caller.say(pieces.pop(0))
        if not pieces:
            left.remove(turn)
    listen(callers)
    for caller in callers:
        caller.leave(rng)
    return [bytes(caller.heard) for caller in callers]


def _greet(callers: list[Caller], greeting: bytes) -> None:
    for caller in callers:
        caller.say(greeting)
    for caller in callers:
        while not caller.heard and not caller.ended:
            assert select.select([caller.socket], [], [], 5)[0], "no answer"
            caller.hear()


def listen(callers: list[Caller], listen_s: float = LISTEN_S) -> None:
    deadline = time.monotonic() + listen_s
    while (left := deadline - time.monotonic()) > 0:
        waiting = {caller.socket: caller for caller in callers if not caller.ended}
        if not waiting:
            return
        for ready in select.select(list(waiting), [], [], left)[0]:
            waiting[ready].hear()


def assert_sound(heard: bytes) -> None:
    """Whatever a client did, what it gets is MQTT: of version 5, or of the earlier ones."""
    problems = []
    for version in (4, 5):
        try:
            _read(heard, version)
            return
        except (AssertionError, IndexError, KeyError, UnicodeDecodeError) as error:
            problems.append(f"version {version}: {error!r}")
    raise AssertionError(f"the broker sent {heard[:200].hex()}: {problems}")


def _read(heard: bytes, version: int) -> None:
    at = 0
    while at < len(heard):
        length = shift = 0
        end = at + 1
        while True:
            if end >= len(heard):
                return
            length |= (heard[end] & 0x7F) << shift
            shift += 7
            end += 1
            if heard[end - 1] < 0x80:
                break
        if end + length > len(heard):
            return
        assert heard[at] >> 4 in (2, PUBLISH, 4, 5, 6, 7, 9, 11, 13, 14, 15)
        parse(heard[at], heard[end : end + length], version)
        at = end + length
