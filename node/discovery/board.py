"""A board: where hosts write their addresses, and read those of others. One file of this folder for each kind.

What stands there is name, id and address, never a secret, and nobody relies on it. All methods block, and are called from one
thread that does nothing else, so boards need no locks and their libraries nothing of gevent.
"""

from __future__ import annotations

import re
from typing import Protocol

from mesh import meeting
from mesh.discovery import Found
from mesh.secret import ClusterSecret
from node.config import Config

ANSWER_S = 3.0  # for whatever a board asks
LOOK_S = 20.0  # for all of it together
ENTRY_BYTES_MAX = 1024
TTLS = 3  # an entry counts for so many intervals after it was last written


class BoardError(Exception):
    """The board cannot be read or written now; the text says why and what to do."""


class Board(Protocol):
    def announce(self, own: Found) -> None:
        """Write it, again each time: it is to be forgotten when it is not."""
        ...

    def look(self) -> list[Found]:
        """All that stand there, this host perhaps too."""
        ...

    def withdraw(self, own: Found) -> None:
        """This host stops."""
        ...


def ttl_s(config: Config) -> float:
    """Who has found somebody that does not answer announces itself that much later."""
    return TTLS * config.discovery.interval_s + meeting.ANSWER_S


def is_entry(name: str) -> bool:
    """Can a host have put it there? Others keep files of their own in the same place."""
    return re.fullmatch(r"[0-9a-f]{32}\.json", name) is not None


def fresh(written_s: dict[str, float], own: str, ttl_s: float) -> set[str]:
    """Names of the entries that are not too old, by the clock of what keeps them, which has just written our own."""
    now_s = written_s.get(own) or max(written_s.values(), default=0.0)
    return {name for name, at_s in written_s.items() if now_s - at_s <= ttl_s}


def make(config: Config, secret: ClusterSecret | None) -> Board:
    match config.discovery.method:
        case "static":
            from node.discovery.static import Static

            return Static(config)
        case "beacon":
            from node.discovery.beacon import Beacon

            assert secret is not None, "checked by node/config/check.py"
            return Beacon(config, secret)
        case "dns":
            from node.discovery.dns import Dns

            return Dns(config)
        case "etcd":
            from node.discovery.etcd import Etcd

            return Etcd(config)
        case "folder":
            from node.discovery.folder import Folder

            return Folder(config)
        case "s3":
            from node.discovery.s3 import S3

            return S3(config)
    raise ValueError(config.discovery.method)
