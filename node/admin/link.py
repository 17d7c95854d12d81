"""Asks keeper and workers over their unix sockets: one REQUEST, one REPLY (docs/internals.md). Blocking, with a deadline."""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

import msgspec

HELLO, REQUEST, REPLY = 0, 4, 5
TIMEOUT_S = 3.0


class LinkError(Exception):
    """The process does not answer; the text names it."""


def ask(
    path: Path,
    method: str,
    arguments: dict[str, Any],
    timeout_s: float = TIMEOUT_S,
    make: type[socket.socket] = socket.socket,
) -> Any:
    """The result of the request; `make` is gevent's socket where others go on meanwhile. Raises LinkError."""
    deadline = time.monotonic() + timeout_s
    try:
        with make(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(timeout_s)
            link.connect(os.fspath(path))
            link.sendall(_frame(HELLO, {"role": "admin"}) + _frame(REQUEST, [1, method, arguments]))
            while True:
                kind, body = _read_frame(link, deadline)
                if kind == REPLY:
                    _, ok, result = msgspec.msgpack.decode(body)
                    if not ok:
                        raise LinkError(f"{path.stem}: {result}")
                    return result
    except OSError as error:
        raise LinkError(f"{path.stem} does not answer: {error}") from error


def _frame(kind: int, message: Any) -> bytes:
    body = msgspec.msgpack.encode(message)
    return struct.pack("<IB", len(body), kind) + body


def _read_frame(link: socket.socket, deadline: float) -> tuple[int, bytes]:
    length, kind = struct.unpack("<IB", _read(link, 5, deadline))
    return kind, _read(link, length, deadline)


def _read(link: socket.socket, size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        link.settimeout(max(0.001, deadline - time.monotonic()))
        part = link.recv(size - len(data))
        if not part:
            raise OSError("the connection was closed")
        data += part
    return bytes(data)
