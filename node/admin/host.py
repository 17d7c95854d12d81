"""What the admin API knows of this host: counters, store and the answers of keeper and workers, put together."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

from gevent.socket import socket
from gevent.threadpool import ThreadPool

from node import __version__, counters
from node.admin.link import TIMEOUT_S, LinkError, ask
from node.config import Config, run_dir, worker_count
from node.config.keys import Operation
from storage.reader import Reader

Found = TypeVar("Found")
INTERCONNECT_S = 20.0  # it waits for other hosts
NO_INTERCONNECT = "the interconnect is not ready"
TROUBLE = "interconnect.trouble"  # in run_dir: what keeps the interconnect from running
DRAINING = "its clients move to other hosts, or have: mqnode cluster drain --cancel ends that"
STALE_S = 2.0  # a heartbeat older than this is of a dead or hung process


class Host:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.run_dir = run_dir(config)
        self.counters = counters.Counters(self.run_dir / "counters")
        self.workers = worker_count(config)
        self._reader: Reader | None = None
        self._readers = ThreadPool(1)  # one: the store must not be remapped under another's read

    # -- processes ------------------------------------------------------------------------------------------------------

    def processes(self) -> dict[str, int]:
        """Name and slot of each process that counts."""
        found = {"keeper": counters.KEEPER, "admin": counters.ADMIN}
        if self.config.interconnect.bind:
            found["interconnect"] = counters.INTERCONNECT
        found.update({f"worker-{index}": counters.WORKER_0 + index for index in range(self.workers)})
        return found

    def alive(self, slot: int) -> bool:
        words = self.counters.slot(slot)
        return bool(words[counters.PID]) and time.monotonic_ns() - words[counters.HEARTBEAT_NS] < STALE_S * 1e9

    def not_ready(self) -> list[str]:
        """Why the host should get no clients now; empty: it is ready."""
        if self.has_left:  # whatever else: it serves nobody
            return [
                "it is no member of its cluster any more, and serves nobody. To be one again: mqnode join. "
                "Otherwise it may be stopped for good"
            ]
        reasons = []
        if self.draining:
            reasons.append(DRAINING)
        keeper = self.counters.read(counters.KEEPER)
        if not self.alive(counters.KEEPER) or not keeper["ready"]:
            reasons.append("the keeper is not ready")
        if keeper["disk_full"]:
            reasons.append("the disk is full: free space in the file system of node.data_dir")
        if joining := self.joining():
            reasons.append(joining)
        elif keeper["settling"]:
            reasons.append("it has started, and does not have yet what other hosts may have acknowledged meanwhile")
        for index in range(self.workers):
            worker = self.counters.read(counters.WORKER_0 + index)
            if not self.alive(counters.WORKER_0 + index) or not worker["ready"]:
                reasons.append(f"worker-{index} is not ready")
            elif not worker["keeper_connected"]:
                reasons.append(f"worker-{index} has no keeper")
        if reasons and not self._connects() and (trouble := self._trouble()):
            reasons.insert(0, trouble)  # before it knows of the other hosts it serves nobody
        return reasons

    def joining(self) -> str:
        """Why a host that has joined lets nobody in, and how far it is; empty: it has a copy, or is alone."""
        keeper = self.counters.read(counters.KEEPER)
        if not keeper["joining"]:
            return ""
        why = "it has joined a cluster, and lets no new client in before it has a copy of what the other hosts have"
        if keeper["joining"] == counters.ALONE:
            return (
                f"{why}. None of them answers: mqnode cluster nodes shows them; start one, or if they are gone for good: "
                "mqnode cluster remove NAME"
            )
        messages = f"{keeper['queued_messages']} queued and {keeper['retained_messages']} retained messages"
        return f"{why}. So far {keeper['sessions']} sessions, {messages} are here"

    def _trouble(self) -> str:
        """What keeps the interconnect from running, if it has said so."""
        try:
            return f"{NO_INTERCONNECT}: {(self.run_dir / TROUBLE).read_text()}"
        except FileNotFoundError:
            return ""

    def _no_interconnect(self) -> str:
        return self._trouble() or NO_INTERCONNECT

    def not_in_sync(self) -> list[str]:
        """Which copies are missing of what this host acknowledges, or may be; empty: another host may be stopped now."""
        reasons = self.not_ready()
        if self.has_left:
            return reasons
        keeper = self.counters.read(counters.KEEPER)
        if self.config.interconnect.bind:
            interconnect = self.counters.read(counters.INTERCONNECT)
            if not self._connects():
                reasons = list(dict.fromkeys([self._no_interconnect(), *reasons]))
            elif keeper["peers_in_sync"] < interconnect["others"]:
                reasons.append(f"{keeper['peers_in_sync']} of {interconnect['others']} other hosts are in sync")
        return reasons + self._missing_copies(keeper)

    def _connects(self) -> bool:
        return self.alive(counters.INTERCONNECT) and bool(self.counters.read(counters.INTERCONNECT)["ready"])

    def warnings(self, reasons: list[str]) -> list[str]:
        """What else is not as it should be than the `reasons` for which it is not ready."""
        if self.has_left:
            return []
        keeper = self.counters.read(counters.KEEPER)
        found = self._missing_copies(keeper)
        if self.config.interconnect.bind and not self._connects() and (why := self._no_interconnect()) not in reasons:
            found.append(f"nothing is replicated: {why}")
        refused = [each for each in get_args(Operation) if each not in self.config.cluster.allow_during_split]
        if keeper["peers_evicted"] and refused:
            found.append(
                f"while a host of the cluster is away it refuses {', '.join(refused)} (cluster.allow_during_split)"
            )
        return found

    def _missing_copies(self, keeper: dict[str, int]) -> list[str]:
        if self.config.cluster.ack_policy == "strict" and not keeper["peers_in_sync"]:
            return [
                'publishers of QoS 1 and 2 and durable sessions wait: cluster.ack_policy is "strict", and no other host is in sync'
            ]
        return ["messages are acknowledged with a copy less"] if keeper["degraded"] else []

    @property
    def draining(self) -> bool:
        return bool(self.counters.slot(counters.ADMIN)[counters.INDEX["draining"]])

    @draining.setter
    def draining(self, draining: bool) -> None:
        """The workers look at it: from then on they accept nobody, until it is False again or this process starts anew."""
        self.counters.slot(counters.ADMIN)[counters.INDEX["draining"]] = int(draining)

    @property
    def has_left(self) -> bool:
        return bool(self.counters.slot(counters.INTERCONNECT)[counters.INDEX["left"]])

    def totals(self) -> dict[str, int]:
        """Every counter and gauge, summed over keeper and workers."""
        slots = [self.counters.read(slot) for name, slot in self.processes().items() if name != "admin"]
        return {name: sum(each[name] for each in slots) for name in counters.NAMES}

    def status(self) -> dict[str, Any]:
        totals = self.totals()
        processes = {}
        for name, slot in self.processes().items():
            words = self.counters.slot(slot)
            processes[name] = {
                "pid": words[counters.PID],
                "alive": self.alive(slot),
                "up_s": max(0, int(time.time()) - words[counters.STARTED_S]) if words[counters.PID] else 0,
            }
        reasons = self.not_ready()
        return {
            "node": self.config.node.name,
            "version": __version__,
            "ready": not reasons,
            "reasons": reasons,
            "warnings": self.warnings(reasons),
            "processes": processes,
            "clients_connected": totals["clients_connected"],
            "sessions": totals["sessions"],
            "queued_messages": totals["queued_messages"],
            "queued_bytes": totals["queued_bytes"],
            "retained_messages": totals["retained_messages"],
            "messages_received": sum(totals[f"publish_received_qos{qos}"] for qos in range(3)),
            "messages_sent": sum(totals[f"publish_sent_qos{qos}"] for qos in range(3)),
            "dropped": {name[8:]: totals[name] for name in counters.COUNTERS if name.startswith("dropped_")},
            "refused": {name[8:]: totals[name] for name in counters.COUNTERS if name.startswith("refused_")},
            "store_used_bytes": totals["store_used_bytes"],
            "listeners": [f"{each.type} {each.bind}" for each in self.config.listeners],
        }

    # -- keeper, workers, store ---------------------------------------------------------------------------------------

    def _ask(self, name: str, method: str, arguments: dict[str, Any], timeout_s: float = TIMEOUT_S) -> Any:
        return ask(self.run_dir / name, method, arguments, timeout_s, socket)

    def ask_keeper(self, method: str, **arguments: Any) -> Any:
        return self._ask("keeper.sock", method, arguments)

    def ask_interconnect(self, method: str, **arguments: Any) -> Any:
        return self._ask("interconnect.sock", method, arguments, INTERCONNECT_S)

    def hosts(self) -> dict[int, dict[str, Any]]:
        """The hosts of the cluster by the numbers that session records have: name, this_host, state …; empty: it is alone."""
        if not self.config.interconnect.bind:
            return {}
        copies = self.ask_keeper("peers")
        numbers = {each["node_id"]: each["number"] for each in copies["peers"]}
        nodes = self.ask_interconnect("nodes")["nodes"]
        return {copies["number"] if each["this_host"] else numbers.get(each["node_id"], 0): each for each in nodes}

    def ask_worker(self, index: int, method: str, **arguments: Any) -> Any:
        return self._ask(f"worker-{index}.sock", method, arguments)

    def ask_workers(self, method: str, **arguments: Any) -> list[Any]:
        """The answers of those that answer; LinkError if none does."""
        answers, errors = self.ask_every_worker(method, **arguments)
        if not answers and errors:
            raise LinkError("; ".join(errors))
        return answers

    def ask_every_worker(self, method: str, **arguments: Any) -> tuple[list[Any], list[str]]:
        """The answers, and an error for each worker that gives none."""
        answers: list[Any] = []
        errors: list[str] = []
        for index in range(self.workers):
            try:
                answers.append(self._ask(f"worker-{index}.sock", method, arguments))
            except LinkError as error:
                errors.append(str(error))
        return answers, errors

    def read(self, work: Callable[[Reader], Found]) -> Found:
        """What `work` finds in the store, in a thread: a long list must not keep a load balancer's /ready waiting."""
        found: Found = self._readers.apply(self._read, (work,))
        return found

    def _read(self, work: Callable[[Reader], Found]) -> Found:
        if self._reader is None:
            self._reader = Reader(Path(self.config.node.data_dir) / "store")
        elif self._reader.is_replaced():
            self._reader.close()
            self._reader = None
            return self._read(work)
        return work(self._reader)
