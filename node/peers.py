"""Requests over the unix sockets of a host: REQUEST, REPLY and EVENT frames of docs/internals.md, by callback.

A Peer is one other process seen from here; its link may be lost and replaced. Requests that have no answer yet are sent
again over the new link (to the keeper, whose requests may be repeated) or answered False (to a sibling, which has started anew).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

HELLO, REQUEST, REPLY, EVENT, PUBLISH, SLOT = 0, 4, 5, 6, 7, 10
CROSSING = 63  # the index among a worker's siblings of the interconnect, which stands for all other hosts

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode


HEADER = struct.Struct("<IB")  # of a frame: length of its body, kind
_unpack = HEADER.unpack_from


def frame(kind: int, body: bytes) -> bytes:
    return HEADER.pack(len(body), kind) + body


def take_frames(buffer: bytearray) -> list[tuple[int, bytes]]:
    """(kind, body) of each whole frame at the beginning of `buffer`, which loses them."""
    frames = []
    at, size = 0, len(buffer)
    with memoryview(buffer) as view:
        while size - at >= 5:
            length, kind = _unpack(view, at)
            if size - at - 5 < length:
                break
            begin, at = at + 5, at + 5 + length
            frames.append((kind, bytes(view[begin:at])))
    del buffer[:at]
    return frames


Done = Callable[[bool, Any], object]


class LinkLike(Protocol):
    def send(self, kind: int, body: bytes) -> None: ...


class Peer:
    def __init__(self, repeat: bool) -> None:
        self.link: LinkLike | None = None
        self._repeat = repeat
        self._next = 0
        self._waiting: dict[int, tuple[bytes, Done | None]] = {}
        self._asking: set[str] = set()  # methods of shared questions that are under way
        self._next_time: dict[str, list[Done]] = {}  # who shares the next one

    def call(self, method: str, arguments: Any, done: Done | None = None) -> int:
        """Ask; `done(ok, result)` runs with the answer. The number of the request."""
        self._next += 1
        body = encode((self._next, method, arguments))
        if self.link is None and not self._repeat:
            if done is not None:
                done(False, "not connected")
            return self._next
        self._waiting[self._next] = (body, done)
        if self.link is not None:
            self.link.send(REQUEST, body)
        return self._next

    def share(self, method: str, done: Done) -> None:
        """As `call`, without arguments: whoever asks while such a question is under way shares the next one with the others."""
        self._next_time.setdefault(method, []).append(done)
        if method not in self._asking:
            self._ask(method)

    def _ask(self, method: str) -> None:
        asked = self._next_time.pop(method)
        self._asking.add(method)

        def answered(ok: bool, result: Any) -> None:
            self._asking.discard(method)
            if method in self._next_time:
                self._ask(method)
            for done in asked:
                done(ok, result)

        self.call(method, {}, answered)

    def withdraw(self, number: int) -> None:
        """It is not asked again. Its answer may be on its way already."""
        if number in self._waiting:
            self._waiting[number] = (b"", self._waiting[number][1])

    def connected(self, link: LinkLike) -> None:
        self.link = link
        self._waiting = {number: each for number, each in self._waiting.items() if each[0]}
        for body, _ in list(self._waiting.values()):
            link.send(REQUEST, body)

    def lost(self) -> None:
        self.link = None
        if self._repeat:
            return
        waiting, self._waiting = self._waiting, {}
        for _, done in waiting.values():
            if done is not None:
                done(False, "connection lost")

    def answered(self, body: bytes) -> None:
        number, ok, result = decode(body)
        _, done = self._waiting.pop(number, (b"", None))
        if done is not None:
            done(ok, result)


def reply(link: LinkLike, number: int, ok: bool, result: Any) -> None:
    link.send(REPLY, encode((number, ok, result)))


class Countdown:
    """Runs `then` when all the answers that were asked for are there."""

    def __init__(self, then: Callable[[], Any]) -> None:
        self._then = then
        self._open = 1

    def one_more(self) -> Done:
        self._open += 1
        return lambda ok, result: self.start()

    def start(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._then()
