"""Who may connect: ZeroMQ asks for each CURVE handshake (ZAP, https://rfc.zeromq.org/spec/27), and a greenlet answers.

`allow` sees the client's public key, which the handshake has proved. The key becomes the User-Id of each message of that
connection: nothing else says who sent it. Also here: sockets of plain pyzmq under gevent. `zmq.green` waits up to 11.6 s for an
event that it missed (pyzmq#2167); reading events after each operation misses none.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
import zmq
from gevent.socket import wait_read
from zmq.utils import z85

from mesh import greenlets

ENDPOINT = "inproc://zeromq.zap.01"
OLDEST_LIBZMQ = (4, 3, 3)  # older ones: CVE-2019-13132, CVE-2020-15166, CVE-2021-20237
HANDSHAKE_MS = 5000
POLL_S = 1.0
REBIND_S = 2.0  # less than an eviction takes

Socket = zmq.Socket[bytes]


class TransportError(Exception):
    """This host cannot talk to others; the text says why and what to do."""


POLLIN, POLLOUT = int(zmq.POLLIN), int(zmq.POLLOUT)  # an Enum costs a microsecond at each use


def events(socket: Socket) -> int:
    return int(socket.getsockopt(zmq.EVENTS))


def wait_readable(socket: Socket, timeout_s: float = POLL_S) -> bool:
    """Until a message is there, or the time is over. Who calls it again and again leaves others their turn."""
    if events(socket) & POLLIN:
        gevent.sleep(0)
        return True
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        with suppress(TimeoutError):
            wait_read(socket.getsockopt(zmq.FD), timeout=left_s)
        if events(socket) & POLLIN:
            return True
    return False


def context() -> zmq.Context[Socket]:
    if zmq.zmq_version_info() < OLDEST_LIBZMQ:
        oldest = ".".join(map(str, OLDEST_LIBZMQ))
        raise TransportError(
            f"libzmq {zmq.zmq_version()} has known holes: hosts are not connected. Install {oldest} or later, for "
            "example the wheel of pyzmq."
        )
    return zmq.Context()


def server(context: zmq.Context[Socket], domain: str, bind: str, secret_key: str, message_bytes_max: int) -> Socket:
    """A ROUTER bound to `bind` that asks `serve` about each client. Half handshakes and garbage end after 5 s."""
    socket = context.socket(zmq.ROUTER)
    options: list[tuple[int, Any]] = [
        (zmq.LINGER, 0),
        (zmq.IPV6, "[" in bind),
        (zmq.CURVE_SERVER, 1),
        (zmq.CURVE_SECRETKEY, secret_key.encode()),
        (zmq.ZAP_DOMAIN, domain.encode()),
        (zmq.ZAP_ENFORCE_DOMAIN, 1),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
        (zmq.MAXMSGSIZE, message_bytes_max),
        (zmq.RCVHWM, 64),
        (zmq.BACKLOG, 1024),
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, 5),
        (zmq.TCP_KEEPALIVE_INTVL, 2),
        (zmq.TCP_KEEPALIVE_CNT, 3),
    ]
    for option, value in options:
        socket.setsockopt(option, value)
    try:
        socket.bind(f"tcp://{bind}")
    except zmq.ZMQError as error:
        socket.close()
        look = f"who has the port: ss -ltnp 'sport = :{bind.rpartition(':')[2]}'"
        if error.errno == errno.EADDRNOTAVAIL:
            look = "there is no such address here: ip address"
        raise TransportError(
            f"cannot listen at {bind} for other hosts: {error.strerror}. Set interconnect.bind to a free port of an address "
            f"of this host; {look}"
        ) from error
    return socket


def bind_again(socket: Socket, address: str) -> None:
    """After `unbind`, which ends the listener at some later moment."""
    deadline = time.monotonic() + REBIND_S
    while True:
        try:
            socket.bind(f"tcp://{address}")
            return
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE or time.monotonic() > deadline:
                raise
        gevent.sleep(0.005)


class Authenticator:
    """Answers for all sockets of the context; make it before they bind."""

    def __init__(self, context: zmq.Context[Socket], domain: str, allow: Callable[[str], bool]) -> None:
        self._domain = domain.encode()
        self._allow = allow
        self.refused = 0  # clients
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self._greenlet = greenlets.spawn(self._run)

    def _run(self) -> None:
        while True:
            if wait_readable(self._socket):
                self._socket.send_multipart(self._answer(self._socket.recv_multipart()))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        version, number, domain, _address, _routing_id, mechanism, *credentials = request
        key = ""
        if mechanism == b"CURVE" and domain == self._domain and len(credentials) == 1:
            key = z85.encode(credentials[0]).decode()
        if key and self._allow(key):
            return [version, number, b"200", b"OK", key.encode(), b""]
        self.refused += 1
        return [version, number, b"400", b"no member", b"", b""]

    def stop(self) -> None:
        self._greenlet.kill()
        self._socket.close()
