"""What the keeper shows: sessions, queues and copies in its slot of the counters (node/counters.py), and how far each peer is."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from node import counters
from node.keeper.replicas import IN_SYNC, Replicas
from node.sessions.directory import Directory
from storage.layout import META_EVICTED
from storage.writer import Writer

INDEX = counters.INDEX


def count_commit(slot: memoryview, operations: int, took_ns: int) -> None:
    slot[INDEX["commits"]] += 1
    slot[INDEX["commit_ops"]] += operations
    slot[INDEX["commit_ns"]] += took_ns
    count_latency(slot, "ack_fsync", operations, took_ns)


def count_latency(slot: memoryview, name: str, operations: int, took_ns: int) -> None:
    """So many `operations` have waited so long for one of counters.LATENCIES."""
    us = took_ns // 1000
    bucket = counters.ACK_LATENCY_US[bisect_left(counters.ACK_LATENCY_US[:-1], us)]
    slot[INDEX[f"{name}_{bucket}"]] += operations
    slot[INDEX[f"{name}_sum_us"]] += us * operations


def count(slot: memoryview, writer: Writer, directory: Directory) -> None:
    """After a commit."""
    for tally in (writer.tally, directory.tally):
        for name, by in tally.items():
            slot[INDEX[name]] += by
    directory.tally.clear()
    slot[INDEX["sessions"]] = len(directory.sessions)
    slot[INDEX["sessions_connected"]] = len(directory.attached)
    slot[INDEX["subscriptions_shared"]] = directory.subscriptions.shared_count
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


def describe_copies(number: int, writer: Writer, replicas: Replicas, now_ms: int) -> dict[str, Any]:
    """For metrics and the command line: the number of this host, and how far each other one is."""
    found = []
    for peer in replicas.peers.values():
        state, has = replicas.replication.peers.get(peer), replicas.had(peer)
        found.append({
            "node_id": peer.node_id.hex(), "number": peer.number, "in_sync": state is not None and state.in_sync,
            "evicted": peer.node_id in replicas.evicted,
            "was_in_sync": writer.get("meta", META_EVICTED + peer.node_id) == IN_SYNC, "evictions": peer.evictions,
            "lag_ops": max(0, writer.seq - has), "lag_s": replicas.times.lag_ms(has, now_ms) / 1000,
        })  # fmt: skip
    return {"number": number, "peers": found, "digests": replicas.digests.own(), "heals": replicas.heals.describe()}
