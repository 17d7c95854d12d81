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
        self._own: Found | None = None
        self._other_secret: tuple[str, float] | None = None  # who announces itself with one, and when
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
        self._own, said = own, own.to_json()
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
                datagram, (address, _) = opened.recvfrom(ENTRY_BYTES_MAX + 1)
            except BlockingIOError:
                break
            if not datagram.startswith(MAGIC) or len(datagram) > ENTRY_BYTES_MAX:
                continue
            if not self._is_signed(datagram):
                self._other_secret = address, now_s
            elif (found := Found.from_json(datagram[len(MAGIC) + SUM_BYTES :])) is not None:
                self._heard[found] = now_s
        self._heard = {found: at_s for found, at_s in self._heard.items() if now_s - at_s <= self._ttl_s}
        self._say_other_secret(now_s)
        return list(self._heard)

    def _is_signed(self, datagram: bytes) -> bool:
        signed, said = datagram[len(MAGIC) : len(MAGIC) + SUM_BYTES], datagram[len(MAGIC) + SUM_BYTES :]
        return hmac.compare_digest(signed, hmac.digest(self._key, said, "sha256"))

    def _say_other_secret(self, now_s: float) -> None:
        """Where nobody else is heard it is worth a word; beside a cluster of ours it is that of other people."""
        if self._other_secret is None or self._heard.keys() - {self._own}:
            return
        address, at_s = self._other_secret
        if now_s - at_s <= self._ttl_s:
            raise BoardError(
                f"multicast {self._group[0]}: only hosts with another cluster secret are heard, the last from {address}. If it "
                "is to be of this cluster, copy the file of discovery.secret_file from one to the other and restart mqnode there"
            )

    def withdraw(self, own: Found) -> None:
        if self._socket is not None:
            self._socket.close()  # who is silent is forgotten
