"""A workload, as a run has it, and how its clients end."""

from __future__ import annotations

from typing import Protocol

from tests.cluster.matrix.history import History
from tests.faults.ledger import Peer


class Load(Protocol):
    def start(self) -> None: ...
    def drain(self) -> None: ...
    def drained(self) -> bool: ...
    def stop(self) -> None: ...


def end(history: History, *peers: Peer) -> None:
    """They stop; the history gets what failed."""
    for peer in peers:
        peer.stop()
        for error in peer.errors:
            history.add(peer.name, "failed", error)
