"""Stores of several hosts, without the hosts."""

from __future__ import annotations

from pathlib import Path

from node.config import Limits
from storage.store import Store, open_store
from storage.writer import Writer

A, B = 1, 2  # numbers of hosts
Host = tuple[Store, Writer]


def host(folder: Path, number: int) -> Host:
    store = open_store(folder, 1 << 24, 1 << 30)
    writer = Writer(store.environment, store.databases, Limits(), number)
    writer.begin()
    writer.begin_recording()
    writer.commit()
    return store, writer


def tell(writer: Writer, number: int, told: Writer, context: dict[int, int] | None = None) -> None:
    """What the other host lacks, as it is sent again. `context`: that of the writer when it sent; None: now."""
    context = writer.context() if context is None else context
    for seq, changes in writer.missed(told.peer_seq(number), 1 << 20):
        told.begin()
        told.apply_changes(number, changes, context)
        told.learn({number: seq})
        told.commit()
