"""A host of the mesh and nothing more: a transport that sends each frame back and prints what it is told.

As a process, `python -m tests.mesh.host IDENTITY MEMBERSHIP BIND`, it prints JSON lines; in a test, `Host` keeps the list.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gevent

from mesh.identity import Identity, load_or_create
from mesh.membership import Membership
from mesh.transport import Transport
from tests.broker import busy

ECHO, SILENT = 1, 2  # kinds


class Host:
    """`echo`: send frames of kind ECHO back, as kind SILENT."""

    def __init__(
        self,
        identity: Identity,
        membership: Membership,
        bind: str,
        *,
        echo: bool = False,
        note: Callable[[list[str]], None] | None = None,
    ) -> None:
        self.events: list[list[str]] = []
        self.frames: list[tuple[bytes, int, bytes]] = []
        self._echo, self._note = echo, note or self.events.append
        self.transport = Transport(identity, membership, bind, self)

    def frame(self, node_id: bytes, kind: int, body: bytes) -> None:
        if self._echo and kind == ECHO:
            self.transport.send(node_id, SILENT, body)
        else:
            self.frames.append((node_id, kind, body))

    def up(self, node_id: bytes) -> None:
        self._note(["up", node_id.hex()])

    def suspect(self, node_id: bytes) -> None:
        self._note(["suspect", node_id.hex()])

    def down(self, node_id: bytes, reason: str) -> None:
        self._note(["down", node_id.hex(), reason])

    def stood_still(self, for_s: float) -> None:
        self._note(["stood_still"])

    def removed(self, node_id: bytes, table: bytes) -> None:
        self._note(["removed", node_id.hex(), table.decode()])

    def state(self, node_id: bytes) -> str:
        return self.transport.counters()[node_id].state


def green_wait(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> float:
    """Until the condition holds, with greenlets running; how long it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + timeout_s * busy(), what or f"still false after {timeout_s} s"
        gevent.sleep(0.005)
    return time.monotonic() - start


def main() -> None:
    identity = load_or_create(Path(sys.argv[1]))
    membership = Membership.from_json(Path(sys.argv[2]).read_bytes())
    host = Host(
        identity,
        membership,
        sys.argv[3],
        echo=True,
        note=lambda event: os.write(1, json.dumps(event).encode() + b"\n") and None,
    )
    os.write(1, b'["ready"]\n')
    while os.getppid() != 1:  # the test is gone
        gevent.sleep(1)
    host.transport.stop()


if __name__ == "__main__":
    main()
