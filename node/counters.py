"""Counters in shared memory: one file of slots, one slot a process, one writer a slot, any number of readers.

A slot is 1024 unsigned 64-bit words: pid, heartbeat (CLOCK_MONOTONIC, ns), start (wall clock, s), how often it was started,
then from word FIRST on one word for each name of COUNTERS, GAUGES and the buckets of LATENCIES, and at the end two for each
listener.
A worker that is started anew continues its slot's counters and zeroes its gauges.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SLOT_BYTES = 8192
FIRST = 16
KEEPER, ADMIN, WATCHDOG, INTERCONNECT, WORKER_0 = 0, 1, 2, 3, 8
SLOTS = WORKER_0 + 48
PID, HEARTBEAT_NS, STARTED_S, STARTS = 0, 1, 2, 3
ALONE, COPYING = 1, 2  # values of the gauge `joining`: no other host answers, or one does

# by the number that stands in a packet's first four bits [MQTT-2.1.2]
PACKET_TYPES = (
    "reserved", "connect", "connack", "publish", "puback", "pubrec", "pubrel", "pubcomp", "subscribe", "suback", "unsubscribe",
    "unsuback", "pingreq", "pingresp", "disconnect", "auth",
)  # fmt: skip
PACKETS_RECEIVED = tuple(f"packets_received_{name}" for name in PACKET_TYPES)
PACKETS_SENT = tuple(f"packets_sent_{name}" for name in PACKET_TYPES)
# The order is the layout: append only within one run of a host. The compiled core reads the indexes by name at import.
COUNTERS = (
    "bytes_received", "bytes_sent",
    *PACKETS_RECEIVED, *PACKETS_SENT,
    "publish_received_qos0", "publish_received_qos1", "publish_received_qos2",
    "publish_sent_qos0", "publish_sent_qos1", "publish_sent_qos2",
    "publish_bytes_received", "publish_bytes_sent", "duplicates_received", "duplicates_sent",
    "connects_accepted", "connects_refused", "connections_closed",
    "sockets_opened",
    "subscribes", "unsubscribes",
    "auth_failures_anonymous", "auth_failures_password", "auth_failures_scram", "auth_failures_jwt",
    "auth_failures_introspection", "authz_denied",
    "shed_failed_logins", "shed_listener_full", "shed_worker_full",
    "takeovers", "takeovers_unclean", "sessions_expired", "wills_published",
    "dropped_queue_full", "dropped_queue_bytes", "dropped_expired", "dropped_slow_subscriber", "dropped_too_large",
    "dropped_denied", "dropped_session_ended", "dropped_interconnect",
    "dropped_owner_down",
    "refused_disk_full", "refused_quota", "refused_split",
    "publishers_paused", "malformed_packets", "protocol_errors",
    "sibling_messages_sent", "sibling_messages_received",
    "commits", "commit_ns", "commit_ops", "fsync_errors",
    "owner_down_queued", "solo_acks",
    "redispatched", "retained_set", "retained_deleted", "handler_errors",
    "digests_compared", "digests_skipped", "digest_mismatches", "digest_repairs",
    "merge_sessions_here", "merge_sessions_peer", "routes_unconfirmed",
)  # fmt: skip
GAUGES = (
    "connections", "clients_connected", "subscriptions", "subscriptions_shared",
    "sessions", "sessions_connected", "queued_messages", "queued_bytes", "retained_messages",
    "output_bytes", "inflight", "paused_publishers",
    "store_used_bytes", "store_map_bytes", "store_readers", "loop_lag_us", "disk_full",
    "ready", "keeper_connected", "siblings_connected", "match_cache_entries", "topic_nodes", "wills_pending",
    "peers", "peers_in_sync", "peers_evicted", "degraded",
    "draining", "left", "others", "digest_mismatch_buckets", "joining", "settling",
)  # fmt: skip
# PUBLISH received to PUBACK or PUBREC released; of that, at the keeper, the commit, and what peers in sync took for theirs
LATENCIES = ("ack_latency", "ack_fsync", "ack_replica")
# upper bounds of their buckets in microseconds, the last is open
ACK_LATENCY_US = (100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 0)
NAMES = COUNTERS + GAUGES + tuple(f"{name}_{us}" for name in LATENCIES for us in (*ACK_LATENCY_US, "sum_us"))
LISTENERS_MAX = 64
LISTENER_0 = SLOT_BYTES // 8 - LISTENERS_MAX  # open connections of each listener, in the order of the configuration
CERTIFICATE_0 = LISTENER_0 - LISTENERS_MAX  # when their first certificate expires, Unix time; 0: no TLS
INDEX = {name: FIRST + position for position, name in enumerate(NAMES)}


class Counters:
    """The mapped file. `words` is all of it as unsigned 64-bit words; `slot(n)` is the view of one process."""

    def __init__(self, path: str | Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < SLOTS * SLOT_BYTES:
                os.ftruncate(descriptor, SLOTS * SLOT_BYTES)
            self._map = mmap.mmap(descriptor, SLOTS * SLOT_BYTES)
        finally:
            os.close(descriptor)
        self.words = memoryview(self._map).cast("Q")

    def slot(self, number: int) -> memoryview:
        words = SLOT_BYTES // 8
        return self.words[number * words : (number + 1) * words]

    def claim(self, number: int) -> memoryview:
        """This process becomes the writer of slot `number`: counters go on, gauges start at 0."""
        slot = self.slot(number)
        for name in GAUGES:
            slot[INDEX[name]] = 0
        slot[STARTED_S] = int(time.time())
        slot[STARTS] += 1
        beat(slot)
        slot[PID] = os.getpid()
        return slot

    def read(self, number: int) -> dict[str, int]:
        slot = self.slot(number)
        return {name: slot[index] for name, index in INDEX.items()}


def beat(slot: memoryview) -> None:
    slot[HEARTBEAT_NS] = time.monotonic_ns()


@contextmanager
def beating(slot: memoryview, interval_s: float = 0.2) -> Iterator[None]:
    """Beats go on while its process does one long thing."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(interval_s):
            beat(slot)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
