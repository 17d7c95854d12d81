"""Questions to a host that does not know who asks, and its answers: the sockets of mesh/join.py and mesh/meeting.py.

One encrypted connection, one question after the other, an answer to each. The asker has the public key of who answers; the
handshake proves the key of the asker, which the answer function is told. What is said on them is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

import gevent
import zmq

from mesh import addresses, greenlets, zap
from mesh.identity import Identity

ASKED_BYTES_MAX = 16 << 10  # by anybody
Answer = Callable[[int, bytes, str, str, bytes], bytes]  # ms of the wall clock, connection, key, address, question


class Answers:
    """The socket that all may ask: `answer` must not block."""

    def __init__(self, domain: str, bind: str, secret_key: str, answer: Answer) -> None:
        self._answer = answer
        self._context = zap.context()
        self._authenticator = zap.Authenticator(self._context, domain, lambda _: True)
        try:
            self._router = zap.server(self._context, domain, bind, secret_key, ASKED_BYTES_MAX)
        except zap.TransportError:
            self._authenticator.stop()
            self._context.term()
            raise
        self.address = self._router.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://")
        self._greenlet = greenlets.spawn(self._run)

    def _run(self) -> None:
        while True:
            if not zap.wait_readable(self._router):
                continue
            connection, *parts = self._router.recv_multipart(copy=False)
            if len(parts) == 1:
                key, address = str(parts[0].get("User-Id")), str(parts[0].get("Peer-Address"))
                answer = self._answer(time.time_ns() // 1_000_000, connection.bytes, key, address, parts[0].bytes)
                self._router.send_multipart([connection.bytes, answer], zmq.NOBLOCK)

    def stop(self) -> None:
        gevent.kill(self._greenlet)
        self._router.close()
        self._authenticator.stop()
        self._context.term()


class NoAddressError(Exception):
    """A host that is to be asked has a name that leads nowhere; the text says why."""


class Questions:
    """`with Questions(…) as ask: ask(question)` is the answer, or None: there was none before the time was over. NoAddressError."""

    def __init__(
        self, address: str, public_key: str, identity: Identity, *, timeout_s: float, answer_bytes_max: int
    ) -> None:
        self._deadline = time.monotonic() + timeout_s
        found = _resolve(address, timeout_s)
        self._context = zap.context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IPV6, "[" in found),
            (zmq.CURVE_SERVERKEY, public_key.encode()),
            (zmq.CURVE_PUBLICKEY, identity.public_key.encode()),
            (zmq.CURVE_SECRETKEY, identity.secret_key.encode()),
            (zmq.MAXMSGSIZE, answer_bytes_max),
        ):
            self._socket.setsockopt(option, value)
        self._socket.connect(f"tcp://{found}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._context.term()

    def __call__(self, question: bytes) -> bytes | None:
        self._socket.send(question)
        if not zap.wait_readable(self._socket, max(self._deadline - time.monotonic(), 0)):
            return None
        return self._socket.recv()


def _resolve(address: str, timeout_s: float) -> str:
    """Not by ZeroMQ: that looks names up in a thread for which all else waits in the end."""
    try:
        with gevent.Timeout(timeout_s, TimeoutError("no name server answers")):
            return addresses.resolve(address, "")
    except (OSError, UnicodeError, ValueError) as error:
        raise NoAddressError(f"{address} leads to no address: {error}") from error
