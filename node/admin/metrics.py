"""Prometheus text of the shared counters: one table says which counter is which series."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from node import __version__, counters
from node.admin import link_metrics
from node.admin.host import Host

# series -> (help, label name, {label value: counter})
COUNTERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "mqnode_messages_dropped": ("Messages that a client was not given, by reason", "reason", {
        name[8:]: name for name in counters.COUNTERS if name.startswith("dropped_")}),
    "mqnode_messages_refused": ("Publishes that were not acknowledged, by reason", "reason", {
        "disk_full": "refused_disk_full", "quota": "refused_quota",
        "split": "refused_split"}),
    "mqnode_publish_bytes": ("Payloads of PUBLISH packets of clients", "dir", {
        "in": "publish_bytes_received", "out": "publish_bytes_sent"}),
    "mqnode_duplicates": (
        "Repetitions: QoS 2 messages that had come before (in), PUBLISH packets sent with DUP (out)", "dir", {
        "in": "duplicates_received", "out": "duplicates_sent"}),
    "mqnode_bytes": ("Bytes of clients and siblings", "dir", {"in": "bytes_received", "out": "bytes_sent"}),
    "mqnode_connect": ("CONNECTs by result", "result", {
        "accepted": "connects_accepted", "refused": "connects_refused"}),
    "mqnode_sockets_opened": ("Sockets accepted", "", {"": "sockets_opened"}),
    "mqnode_connections_closed": ("Sockets closed", "", {"": "connections_closed"}),
    "mqnode_auth_failures": ("Failed logins, by what the client showed", "method", {
        name[14:]: name for name in counters.COUNTERS if name.startswith("auth_failures_")}),
    "mqnode_overload_shed": ("CONNECTs refused so that the others are served, by the bound that was met", "stage", {
        name[5:]: name for name in counters.COUNTERS if name.startswith("shed_")}),
    "mqnode_authz_denied": ("Publishes and subscriptions that a rule denied", "", {"": "authz_denied"}),
    "mqnode_takeovers": (
        "clean: connections ended by another one with their client id; unclean: sessions taken over from a host that "
        "could not be asked", "kind", {"clean": "takeovers", "unclean": "takeovers_unclean"}),
    "mqnode_sessions_expired": ("Sessions ended by their expiry", "", {"": "sessions_expired"}),
    "mqnode_wills_published": ("Wills published", "", {"": "wills_published"}),
    "mqnode_redispatched": ("Shared messages given to another member", "", {"": "redispatched"}),
    "mqnode_protocol_errors": ("Connections ended for breaking the protocol", "kind", {
        "malformed": "malformed_packets", "protocol": "protocol_errors"}),
    "mqnode_handler_errors": ("Errors of ours that ended one connection", "", {"": "handler_errors"}),
    "mqnode_publishers_paused": ("Times that a publisher had to wait", "", {"": "publishers_paused"}),
    "mqnode_sibling_messages": ("Messages between the workers of this host", "dir", {
        "in": "sibling_messages_received", "out": "sibling_messages_sent"}),
    "mqnode_routes_unconfirmed": ("SUBACKs, UNSUBACKs and retained messages that waited 5 s for another host, and no longer", "", {
        "": "routes_unconfirmed"}),
    "mqnode_store_operations": ("Operations committed", "", {"": "commit_ops"}),
    "mqnode_solo_acks": ("Operations acknowledged while another host had no copy of them", "", {"": "solo_acks"}),
    "mqnode_owner_down_queued": ("Messages queued for sessions whose host was evicted", "", {"": "owner_down_queued"}),
    "mqnode_merge_sessions": ("Sessions that two hosts had changed apart, by whose record counts", "outcome", {
        "here": "merge_sessions_here", "peer": "merge_sessions_peer"}),
    "mqnode_digests_compared": ("Comparisons of this store with another host's, by result", "result", {
        "compared": "digests_compared", "skipped": "digests_skipped"}),
    "mqnode_digest_mismatches": ("Of these, those that found a difference", "", {"": "digest_mismatches"}),
    "mqnode_digest_repairs": ("Parts of another host's store that held what this one lacked", "", {
        "": "digest_repairs"}),
    "mqnode_store_errors": ("Errors of the disk", "", {"": "fsync_errors"}),
}  # fmt: skip
GAUGES = {
    "mqnode_clients_connected": ("Connected clients", "clients_connected"),
    "mqnode_subscriptions": ("Subscriptions, shared ones too", "subscriptions"),
    "mqnode_queue_messages": ("Messages in the queues of durable sessions", "queued_messages"),
    "mqnode_queue_bytes": ("Bytes in the queues of durable sessions", "queued_bytes"),
    "mqnode_retained_messages": ("Retained messages", "retained_messages"),
    "mqnode_store_readers": (
        "Reads of the store that go on; what is deleted meanwhile makes no room before they end",
        "store_readers",
    ),
    "mqnode_output_bytes": ("Bytes that wait to be sent to clients", "output_bytes"),
    "mqnode_inflight": ("Messages sent with QoS 1 or 2 that their client has not acknowledged to the end", "inflight"),
    "mqnode_paused_publishers": ("Publishers that wait now", "paused_publishers"),
    "mqnode_disk_full": ("1 while new messages for queues are refused", "disk_full"),
    "mqnode_degraded": ("1 while another host lacks a copy of what is stored here", "degraded"),
    "mqnode_peers": ("Other hosts that this one has met since it started", "peers"),
    "mqnode_peers_evicted": ("Of these, those that are cut off or dead", "peers_evicted"),
    "mqnode_peers_in_sync": ("Of these, those that have all that is acknowledged", "peers_in_sync"),
    "mqnode_digest_mismatch_buckets": (
        "Databases that differed from another host's when last compared",
        "digest_mismatch_buckets",
    ),
    "mqnode_loop_lag_seconds": ("By how much the worker's last tick was late", "loop_lag_us"),
    "mqnode_wills_pending": ("Wills of connected or delayed clients", "wills_pending"),
}
PER_WORKER = (
    "mqnode_clients_connected", "mqnode_output_bytes", "mqnode_inflight", "mqnode_paused_publishers",
    "mqnode_loop_lag_seconds",
)  # fmt: skip


def text(host: Host) -> bytes:
    """The answer of GET /metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(host))
    return generate_latest(registry)


class _Collector:
    def __init__(self, host: Host) -> None:
        self._host = host

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        totals = self._host.totals()
        yield _messages(totals)
        yield _packets(totals)
        for name, (help_text, label, parts) in COUNTERS.items():
            family = CounterMetricFamily(name, help_text, labels=[label] if label else [])
            for value, counter in parts.items():
                family.add_metric([value] if label else [], totals[counter])
            yield family
        yield from self._gauges(totals)
        yield from self._listeners()
        yield _histogram(totals)
        yield SummaryMetricFamily(
            "mqnode_store_commit_seconds", "Commits of the store and the time they took, fsync included",
            count_value=totals["commits"], sum_value=totals["commit_ns"] / 1e9,
        )  # fmt: skip
        yield from link_metrics.collect(self._host)
        yield from self._processes()

    def _gauges(self, totals: dict[str, int]) -> Iterator[Metric]:
        connected = totals["sessions_connected"]
        sessions = {"connected": connected, "disconnected": max(0, totals["sessions"] - connected)}
        yield _labelled(
            "mqnode_sessions",
            "Durable sessions, by whether their client is connected, as their hosts said last",
            "state",
            sessions,
        )
        store = {"used": totals["store_used_bytes"], "map": totals["store_map_bytes"]}
        yield _labelled("mqnode_store_bytes", "The store's map and its used part", "part", store)
        status = os.statvfs(self._host.config.node.data_dir)
        disk = {"size": status.f_frsize * status.f_blocks, "free": status.f_frsize * status.f_bavail}
        yield _labelled("mqnode_disk_bytes", "The file system of node.data_dir, and what is free of it", "part", disk)
        for name, (help_text, gauge) in GAUGES.items():
            if name not in PER_WORKER:
                yield GaugeMetricFamily(name, help_text, value=totals[gauge])
                continue
            family = GaugeMetricFamily(name, help_text, labels=["worker"])
            for index in range(self._host.workers):
                value = self._host.counters.read(counters.WORKER_0 + index)[gauge]
                family.add_metric([str(index)], value / 1e6 if gauge.endswith("_us") else value)
            yield family

    def _listeners(self) -> Iterator[Metric]:
        open_sockets: dict[str, int] = {}
        expiry: dict[str, int] = {}
        slots = [self._host.counters.slot(counters.WORKER_0 + index) for index in range(self._host.workers)]
        for place, listener in enumerate(self._host.config.listeners[: counters.LISTENERS_MAX]):
            name = listener.name or listener.bind
            open_sockets[name] = open_sockets.get(name, 0) + sum(slot[counters.LISTENER_0 + place] for slot in slots)
            if expires := [at for slot in slots if (at := slot[counters.CERTIFICATE_0 + place])]:
                expiry[name] = min(expires)
        yield _labelled("mqnode_connections", "Open sockets of clients", "listener", open_sockets)
        yield _labelled(
            "mqnode_cert_expiry_timestamp_seconds",
            "When the first certificate in use expires, Unix time, by listener", "listener", expiry,
        )  # fmt: skip

    def _processes(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("mqnode_process_up", "1 while its heartbeat is fresh", labels=["process"])
        memory = GaugeMetricFamily("mqnode_process_resident_bytes", "Resident memory", labels=["process"])
        cpu = CounterMetricFamily("mqnode_process_cpu_seconds", "CPU time used", labels=["process"])
        started = GaugeMetricFamily(
            "mqnode_process_start_time_seconds", "When it started, Unix time", labels=["process"]
        )
        for name, slot in self._host.processes().items():
            up.add_metric([name], int(self._host.alive(slot)))
            started.add_metric([name], self._host.counters.slot(slot)[counters.STARTED_S])
            usage = _usage(self._host.counters.slot(slot)[counters.PID])
            if usage is not None:
                memory.add_metric([name], usage["resident_bytes"])
                cpu.add_metric([name], usage["cpu_s"])
        yield from (up, started, memory, cpu)
        again = CounterMetricFamily("mqnode_worker_restarts", "Times that it was started anew", labels=["worker"])
        for index in range(self._host.workers):
            again.add_metric(
                [str(index)], max(0, self._host.counters.slot(counters.WORKER_0 + index)[counters.STARTS] - 1)
            )
        yield again
        info = GaugeMetricFamily("mqnode_build_info", "Version of mqnode", labels=["version"])
        info.add_metric([__version__], 1)
        yield info


def _labelled(name: str, help_text: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _messages(totals: dict[str, int]) -> Metric:
    family = CounterMetricFamily(
        "mqnode_messages", "PUBLISH packets received from clients (in) and sent to them (out)", labels=["dir", "qos"]
    )
    for direction, counter in (("in", "publish_received"), ("out", "publish_sent")):
        for qos in range(3):
            family.add_metric([direction, str(qos)], totals[f"{counter}_qos{qos}"])
    return family


def _packets(totals: dict[str, int]) -> Metric:
    family = CounterMetricFamily("mqnode_packets", "Packets of clients, by type", labels=["type", "dir"])
    for direction, names in (("in", counters.PACKETS_RECEIVED), ("out", counters.PACKETS_SENT)):
        for kind, name in zip(counters.PACKET_TYPES, names, strict=True):
            family.add_metric([kind, direction], totals[name])
    return family


def _histogram(totals: dict[str, int]) -> Metric:
    family = HistogramMetricFamily(
        "mqnode_ack_latency_seconds",
        "total: from the receipt of a batch of publishes to PUBACK or PUBREC, where the store is waited for; of all operations "
        "of the store, fsync: their commit here, replica: from then on until other hosts have them",
        labels=["stage"],
    )  # fmt: skip
    for stage, name in zip(("total", "fsync", "replica"), counters.LATENCIES, strict=True):
        count = 0
        buckets: list[tuple[str, float]] = []
        for bound in counters.ACK_LATENCY_US:
            count += totals[f"{name}_{bound}"]
            buckets.append((str(bound / 1e6) if bound else "+Inf", count))
        family.add_metric([stage], buckets=buckets, sum_value=totals[f"{name}_sum_us"] / 1e6)
    return family


def _usage(pid: int) -> dict[str, Any] | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        "cpu_s": (int(fields[11]) + int(fields[12])) / ticks,
        "resident_bytes": int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
    }
