"""What the keeper shows in its slot of the counters: sessions, queues and copies (node/counters.py)."""

from __future__ import annotations

from node import counters
from node.replicas import Replicas
from node.sessions.directory import Directory
from storage.writer import Writer

INDEX = counters.INDEX


def count(slot: memoryview, writer: Writer, directory: Directory) -> None:
    """After a commit."""
    for tally in (writer.tally, directory.tally):
        for name, by in tally.items():
            slot[INDEX[name]] += by
    directory.tally.clear()
    slot[INDEX["sessions"]] = len(directory.sessions)
    slot[INDEX["queued_messages"]] = writer.queued_messages
    slot[INDEX["queued_bytes"]] = writer.queued_bytes
    slot[INDEX["retained_messages"]] = writer.retained_messages
    slot[INDEX["wills_pending"]] = len(directory.wills)


def show_copies(slot: memoryview, replicas: Replicas) -> None:
    """Before anything is acknowledged: who does so alone has said it (guarantees.md, I13)."""
    slot[INDEX["peers"]] = len(replicas.peers)
    slot[INDEX["peers_in_sync"]] = replicas.replication.in_sync
    slot[INDEX["peers_evicted"]] = len(replicas.evicted)
    slot[INDEX["digest_mismatch_buckets"]] = replicas.digests.differing
    slot[INDEX["degraded"]] = int(replicas.degraded)
