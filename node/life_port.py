"""The life port: open for as long as processes of this host may live. Other hosts see by it at once that it died (mesh/life.py).

`mqnode start` opens it and leaves it to supervisord, whose end is that of all others (node/process.py), while the death of any
other process changes nothing. Nothing is read or written there.
"""

from __future__ import annotations

import socket
from contextlib import suppress

from node.config.binds import split_bind

LIFE_FD = 4  # in supervisord
LISTENS = "MQNODE_LIFE_PORT"  # set by node/supervise.py: LIFE_FD is the port
_PORTS_ABOVE = 4  # as mesh.life.LIFE_PORT
_IP_FREEBIND = 15
_CONNECTIONS = 64  # that wait, and that are taken in a turn of supervisord's loop


def open_life_port(interconnect: str) -> socket.socket:
    """Above that of the interconnect, whether the address is this host's already or not. Raises OSError, ValueError."""
    host, port = split_bind(interconnect)
    found = socket.getaddrinfo(host or None, port + _PORTS_ABOVE, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    try:
        listening.bind(address)
        listening.listen(_CONNECTIONS)
    except BaseException:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


class LifePort:
    """What supervisord's loop wants to find in its map of descriptors."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        """Make room for those who come next."""
        with suppress(OSError):
            for _ in range(_CONNECTIONS):
                self._listening.accept()[0].close()

    def handle_error(self) -> None:
        raise
