"""What each host says of itself to the others, five times a second, so that each can show the whole cluster.

A report is of its host alone: how it is, and its links as it sees them. Of a host that is not up its last one is shown.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import msgspec

from mesh.transport import Counters
from mesh.undecodable import UNDECODABLE
from node import __version__
from node.admin.host import Host
from node.config import Config
from node.interconnect.cluster import Cluster


class LinkReport(msgspec.Struct):
    state: str  # up, suspect, evicted, down
    since_ms: int  # of the wall clock of the host that reports
    rtt_ms: float | None
    frames_in: int
    frames_out: int
    bytes_in: int
    bytes_out: int
    queue_bytes: int
    trouble: str
    in_sync: bool  # the peer has all that this host has acknowledged
    lag_commits: int
    lag_s: float
    evictions: int = 0
    refusals: int = 0
    life_port: bool = False  # of the peer's host is open: its death would be noticed at once
    clock_ahead_s: float = 0.0  # of the peer, at least: its report took some time


class Digests(msgspec.Struct, array_like=True):
    """What the store of a host holds, as node/keeper/digests.py compares it."""

    context: dict[int, int]
    databases: dict[str, tuple[int, int]]


class Report(msgspec.Struct):
    version: str
    ready: bool
    reasons: list[str]
    clients: int
    sessions: int
    queued_messages: int
    links: dict[str, LinkReport]  # by node id, in hex
    degraded_since_ms: int | None = None
    table: str = ""  # of members, that it has: its digest
    digests: Digests | None = None  # while they can be told
    workers: int | None = None  # None: of an older release
    made_ms: int = 0  # by the wall clock of its host; 0: as above


class Reports:
    def __init__(self, config: Config, cluster: Cluster) -> None:
        self._host, self._cluster = Host(config), cluster
        self._own = cluster.identity.node_id
        self._links: dict[str, LinkReport] = {}
        self._heard: dict[bytes, Report] = {}
        self._heard_s: dict[bytes, float] = {}  # when, by this host's monotonic clock
        self._ahead_s: dict[bytes, float] = {}  # their wall clocks
        self._degraded_since_ms: int | None = None

    # -- this host ------------------------------------------------------------------------------------------------------------

    def make(self, links: dict[bytes, Counters], copies: dict[bytes, dict[str, Any]], digests: Any = None) -> bytes:
        now_ms = time.time_ns() // 1_000_000
        others = [each.node_id for each in self._cluster.table.active() if each.node_id != self._own]
        self._links = {
            node_id.hex(): self._link(node_id, links.get(node_id, Counters()), copies.get(node_id, {}), now_ms)
            for node_id in others
        }
        if all(each.in_sync for each in self._links.values()):
            self._degraded_since_ms = None
        elif self._degraded_since_ms is None:
            self._degraded_since_ms = now_ms
        totals, reasons = self._host.totals(), self._host.not_ready()
        self._heard[self._own] = Report(
            __version__, not reasons, reasons + self._host.warnings(reasons) + self._wrong_name(), totals["clients_connected"],
            totals["sessions"], totals["queued_messages"], self._links, self._degraded_since_ms, self._cluster.digest,
            None if digests is None else msgspec.convert(digests, Digests), self._host.workers, now_ms,
        )  # fmt: skip
        self._heard_s[self._own] = time.monotonic()
        return msgspec.msgpack.encode(self._heard[self._own])

    def _wrong_name(self) -> list[str]:
        taken = self._cluster.name_taken
        return [f'another host has its node.name "{taken}": choose another one and restart this host'] if taken else []

    def _link(self, node_id: bytes, counters: Counters, copy: dict[str, Any], now_ms: int) -> LinkReport:
        before = self._links.get(node_id.hex())
        return LinkReport(
            state=counters.state,
            since_ms=before.since_ms if before is not None and before.state == counters.state else now_ms,
            rtt_ms=counters.rtt_ms if counters.state == "up" else None,
            frames_in=counters.frames_in,
            frames_out=counters.frames_out,
            bytes_in=counters.bytes_in,
            bytes_out=counters.bytes_out,
            queue_bytes=counters.queue_bytes,
            trouble=counters.trouble,
            in_sync=copy.get("in_sync", False) and counters.state in ("up", "suspect"),  # the keeper hears it later
            lag_commits=copy.get("lag_ops", 0),
            lag_s=copy.get("lag_s", 0.0),
            evictions=copy.get("evictions", 0),
            refusals=counters.refusals,
            life_port=counters.life_port,
            clock_ahead_s=self._ahead_s.get(node_id, 0.0) if counters.state == "up" else 0.0,
        )

    # -- the others -----------------------------------------------------------------------------------------------------------

    def heard(self, node_id: bytes, body: bytes) -> None:
        with suppress(*UNDECODABLE):  # of a release that says it otherwise: nothing is shown of that host
            report = self._heard[node_id] = msgspec.msgpack.decode(body, type=Report)
            self._heard_s[node_id] = time.monotonic()
            self._ahead_s[node_id] = max(0.0, report.made_ms / 1000 - time.time())

    def has_another_table(self, node_id: bytes) -> bool:
        """As it has said."""
        return node_id in self._heard and self._heard[node_id].table not in ("", self._cluster.digest)

    def without_table(self) -> list[str]:
        """The names of the other members that do not have the table of this host."""
        up = {node_id for node_id, link in self._links.items() if link.state == "up"}
        return [
            name for node_id, name in self._cluster.table.shown_names().items()
            if node_id != self._own
            and not (node_id.hex() in up and node_id in self._heard and self._heard[node_id].table == self._cluster.digest)
        ]  # fmt: skip

    # -- for the command line -------------------------------------------------------------------------------------------------

    def nodes(self) -> dict[str, Any]:
        table = self._cluster.table
        nodes = []
        for node_id, name in sorted(table.shown_names().items(), key=lambda each: each[1]):
            link, report = self._links.get(node_id.hex()), self._heard.get(node_id)
            here = node_id == self._own
            nodes.append(
                {
                    "name": name,
                    "node_id": node_id.hex(),
                    "address": table.members[node_id].address,
                    "this_host": here,
                    "state": "up" if here else ("down" if link is None else link.state),
                    "rtt_ms": None if link is None else link.rtt_ms,
                    "trouble": "" if link is None else link.trouble,
                    "release": None if report is None else report.version,
                    "level": table.members[node_id].level,
                }
            )
        return {"cluster": table.name, "level": table.level, "nodes": nodes, "was_removed": self._cluster.was_removed}

    def links(self) -> dict[str, Any]:
        return {"host": self._cluster.name, "links": [each for each in self._all_links() if each["from_this_host"]]}

    def _all_links(self) -> list[dict[str, Any]]:
        names = {node_id.hex(): name for node_id, name in self._cluster.table.shown_names().items()}
        found = [
            {
                "from": names[node_id.hex()], "to": names[peer], "from_this_host": node_id == self._own,
                **msgspec.to_builtins(link),
            }
            for node_id, report in self._heard.items() if node_id.hex() in names
            for peer, link in report.links.items() if peer in names
        ]  # fmt: skip
        return sorted(found, key=lambda each: (each["from"], each["to"]))

    def status(self) -> dict[str, Any]:
        if self._cluster.has_left:
            return self._none_of_it()
        nodes = self.nodes()["nodes"]
        up = {node["name"] for node in nodes if node["state"] == "up"}
        links = [each for each in self._all_links() if each["from"] in up]  # what a dead host told is over
        for node in nodes:
            report = self._heard.get(bytes.fromhex(node["node_id"])) if node["state"] in ("up", "suspect") else None
            node |= {
                "ready": report is not None and report.ready and node["state"] == "up",
                "workers": None if report is None else report.workers,
                "clients": None if report is None else report.clients,
                "sessions": None if report is None else report.sessions,
                "queued_messages": None if report is None else report.queued_messages,
                "in_sync_with": [each["to"] for each in links if each["from"] == node["name"] and each["in_sync"]],
            }
        warnings = [text for node in nodes for text in self._warnings(node, links)]
        warnings += self._different(nodes)
        return {
            "cluster": self._cluster.table.name,
            "host": self._cluster.table.shown_names()[self._own],
            "in_sync": all(len(node["in_sync_with"]) == len(nodes) - 1 for node in nodes),
            "degraded_since_ms": self._degraded_since_ms,
            "nodes": nodes,
            "links": links,
            "warnings": warnings,
            "joining": self._host.joining(),
        }

    def _none_of_it(self) -> dict[str, Any]:
        """What a host that has left knows of its cluster."""
        what = "was removed from" if self._cluster.was_removed else "has left"
        return {
            "cluster": self._cluster.table.name, "host": self._cluster.name, "in_sync": False, "degraded_since_ms": None,
            "nodes": [], "links": [], "joining": "",
            "warnings": [f"{self._cluster.name} {what} this cluster, and serves nobody. To be a member again: mqnode join"],
        }  # fmt: skip

    def digests(self, within_s: float) -> dict[str, Any]:
        """What each host holds, if it has said so in the last `within_s`. `equal` is None while that cannot be said: hosts
        compare with the same commits only."""
        hosts = []
        for node in self.nodes()["nodes"]:
            node_id = bytes.fromhex(node["node_id"])
            heard_s_ago = time.monotonic() - self._heard_s[node_id] if node_id in self._heard else None
            is_fresh = node["state"] == "up" and heard_s_ago is not None and heard_s_ago <= within_s
            told = self._heard[node_id].digests if is_fresh else None
            hosts.append({
                "name": node["name"], "state": node["state"], "heard_s_ago": heard_s_ago,
                "context": None if told is None else {str(number): told.context[number] for number in sorted(told.context)},
                "databases": None if told is None else {
                    name: {"entries": count, "digest": f"{digest:016x}"} for name, (count, digest) in told.databases.items()
                },
            })  # fmt: skip
        known = [each for each in hosts if each["context"] is not None]
        differs = any(
            one["context"] == other["context"] and one["databases"] != other["databases"]
            for one in known
            for other in known
        )
        are_comparable = len(known) == len(hosts) and all(each["context"] == known[0]["context"] for each in known)
        is_alone = [each["name"] for each in hosts] == [self._cluster.name]
        return {"equal": False if differs else True if are_comparable or is_alone else None, "hosts": hosts}

    def _different(self, nodes: list[dict[str, Any]]) -> list[str]:
        releases = sorted({node["release"] for node in nodes if node["release"]})
        older = [node["name"] for node in nodes if node["level"] < max(each["level"] for each in nodes)]
        if older:
            return [f"what is new in the later release waits until all hosts have it: upgrade {', '.join(older)}"]
        return (
            [f"the hosts run different releases: {', '.join(releases)}. Upgrade the older ones"] if releases[1:] else []
        )

    def _warnings(self, node: dict[str, Any], links: list[dict[str, Any]]) -> list[str]:
        name = node["name"]
        if node["state"] != "up":
            [trouble] = [each["trouble"] for each in links if each["from_this_host"] and each["to"] == name] or [""]
            cause = f" ({trouble})" if trouble else ""
            return [f"{name} is {node['state']}{cause}: its copies are missing. On {name}: mqnode status"]
        report = self._heard.get(bytes.fromhex(node["node_id"]))
        found = [] if report is None else [f"{name}: {reason}" for reason in report.reasons]
        lagging = [
            each["to"] for each in links if each["from"] == name and each["state"] == "up" and not each["in_sync"]
        ]
        return found + [f"{other} does not have all of {name} yet" for other in lagging]
