"""Hosts of one network hear each other: each says where it is to a multicast group over UDP, signed with the cluster secret.

A datagram: b"mqnode1", HMAC-SHA256 of the rest under the secret's beacon key, then name, id and address as JSON. One that is heard
again later leads to an old address at worst. Sent and listened to at the address of interconnect.bind only.
"""

from __future__ import annotations

import hmac
import socket
import struct
import time

from mesh.discovery import FOUND_MAX, Found
from mesh.secret import ClusterSecret
from node.config import Config
from node.config.binds import split_bind
from node.discovery.board import ENTRY_BYTES_MAX, BoardError, ttl_s

MAGIC, SUM_BYTES = b"mqnode1", 32
HOPS = 1  # it does not leave the network


class Beacon:
    def __init__(self, config: Config, secret: ClusterSecret) -> None:
        self._key = secret.beacon_key
        self._group = split_bind(config.discovery.multicast)
        self._interface = split_bind(config.interconnect.bind)[0] or "0.0.0.0"
        self._ttl_s = ttl_s(config)
        self._heard: dict[Found, float] = {}  # when, of the monotonic clock
        self._socket: socket.socket | None = None

    def _open(self) -> socket.socket:
        if self._socket is None:
            group, port = self._group
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                interface = socket.inet_aton(socket.gethostbyname(self._interface))
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOPS)
                opened.setsockopt(
                    socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4s", socket.inet_aton(group), interface)
                )
                opened.bind((group, port))
            except OSError:
                opened.close()
                raise
            self._socket = opened
        return self._socket

    def announce(self, own: Found) -> None:
        said = own.to_json()
        try:
            self._open().sendto(MAGIC + hmac.digest(self._key, said, "sha256") + said, self._group)
        except OSError as error:
            raise BoardError(
                f"multicast to {self._group[0]} from {self._interface}: {error.strerror}. If this network has none, set "
                'discovery.method = "static" and name the hosts'
            ) from error

    def look(self) -> list[Found]:
        now_s = time.monotonic()
        opened = self._open()
        for _ in range(FOUND_MAX):
            try:
                datagram = opened.recv(ENTRY_BYTES_MAX + 1)
            except BlockingIOError:
                break
            if (found := self._read(datagram)) is not None:
                self._heard[found] = now_s
        self._heard = {found: at_s for found, at_s in self._heard.items() if now_s - at_s <= self._ttl_s}
        return list(self._heard)

    def _read(self, datagram: bytes) -> Found | None:
        signed, said = datagram[len(MAGIC) : len(MAGIC) + SUM_BYTES], datagram[len(MAGIC) + SUM_BYTES :]
        if not datagram.startswith(MAGIC) or len(datagram) > ENTRY_BYTES_MAX:
            return None
        if not hmac.compare_digest(signed, hmac.digest(self._key, said, "sha256")):
            return None  # of a cluster with another secret
        return Found.from_json(said)

    def withdraw(self, own: Found) -> None:
        if self._socket is not None:
            self._socket.close()  # who is silent is forgotten
