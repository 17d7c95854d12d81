"""Clients that this host has more of than others go to them, `mqnode cluster rebalance`: once, at a pace; it serves meanwhile."""

from __future__ import annotations

from typing import Any

import gevent

from node import log
from node.admin import clients
from node.admin.host import Host
from node.admin.link import LinkError

STEP_S = 0.1


class RebalanceError(Exception):
    """It cannot begin; the text says why, and what to do."""


class Rebalance:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._hosts: dict[str, int] = {}  # clients of each host that takes some, as it began
        self._share, self._surplus, self._moved = 0, 0, 0
        self._failure = ""

    @property
    def runs(self) -> bool:
        return self._greenlet is not None and not self._greenlet.dead

    def start(self, rate: int) -> None:
        """`rate`: clients a second. Nothing happens if it runs already."""
        if self.runs:
            return
        if self._host.draining:
            raise RebalanceError(
                "all clients of this host are sent away already. Nothing was done. mqnode cluster drain --cancel ends that"
            )
        nodes = self._host.ask_interconnect("status")["nodes"] if self._host.config.interconnect.bind else []
        here = sum(clients.connected(self._host))
        self._hosts = {node["name"]: here if node["this_host"] else node["clients"] for node in nodes if node["ready"]}
        if self._host.config.node.name not in self._hosts or len(self._hosts) < 2:
            raise RebalanceError(
                "clients would have nowhere to go: this host and another one have to be ready. Nothing was done. "
                "mqnode cluster status"
            )
        self._share = -(-sum(self._hosts.values()) // len(self._hosts))
        self._surplus, self._moved, self._failure = max(0, here - self._share), 0, ""
        if self._surplus:
            log.logger("admin").info("rebalance", **self.describe())
            self._greenlet = gevent.spawn(self._run, rate)

    def describe(self) -> dict[str, Any]:
        """`share`: clients of each host if all had as many; `surplus`: what this one had above it when it began."""
        return {
            "runs": self.runs,
            "clients": sum(clients.connected(self._host)),
            "hosts": self._hosts,
            "share": self._share,
            "surplus": self._surplus,
            "moved": self._moved,
            "failure": self._failure,
        }

    def _run(self, rate: int) -> None:
        allowed = 0.0
        while self._moved < self._surplus and not self._host.draining:
            allowed = min(allowed + rate * STEP_S, self._surplus - self._moved)
            try:
                there = clients.send_away(self._host, int(allowed), clients.USE_ANOTHER_SERVER)
            except LinkError as error:  # a process that is started anew: its clients have gone elsewhere
                self._failure = str(error)
                break
            self._moved += min(int(allowed), there)
            allowed -= int(allowed)
            if not there:
                break
            gevent.sleep(STEP_S)
        log.logger("admin").info("rebalanced", **self.describe())
