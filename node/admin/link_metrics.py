"""Series of the links to the other hosts of the cluster, one sample for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from node.admin.host import Host
from node.admin.link import LinkError

STATES = {"up": 2, "suspect": 1}  # all others: 0
# series -> (help, field of node/interconnect/reports.py LinkReport)
GAUGES = {
    "mqnode_link_state": ("Link to another host, by peer: 2 up, 1 without an answer for a second, 0 down", "state"),
    "mqnode_outbox_bytes": ("Bytes that wait to be sent to another host, by peer", "queue_bytes"),
    "mqnode_replication_lag_ops": ("Commits that another host does not have yet, by peer", "lag_commits"),
    "mqnode_replication_lag_seconds": ("Age of the oldest commit that it does not have, by peer", "lag_s"),
    "mqnode_link_life_port": (
        "1: its death is noticed at once, the life port of that host is open; by peer",
        "life_port",
    ),
    "mqnode_clock_ahead_seconds": (
        "By how much the wall clock of another host is ahead of this one's, at least; by peer",
        "clock_ahead_s",
    ),
}
COUNTERS = {
    "mqnode_evictions": ("Times that another host was given up: cut off, dead or stopped; by peer", "evictions"),
    "mqnode_peers_refused": ("Times that another host did not fit: its release or its cluster, by peer", "refusals"),
}


def collect(host: Host) -> Iterator[Metric]:
    links = []
    if host.config.interconnect.bind:
        with suppress(LinkError):  # mqnode_process_up says so
            links = host.ask_interconnect("links")["links"]
    for name, (help_text, field) in GAUGES.items():
        gauge = GaugeMetricFamily(name, help_text, labels=["peer"])
        for link in links:
            gauge.add_metric([link["to"]], STATES.get(link["state"], 0) if field == "state" else link[field])
        yield gauge
    for name, (help_text, field) in COUNTERS.items():
        counter = CounterMetricFamily(name, help_text, labels=["peer"])
        for link in links:
            counter.add_metric([link["to"]], link[field])
        yield counter
