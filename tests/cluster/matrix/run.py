"""One run: a fault strikes under load; everything is healed, drained, read back and compared; then the history is judged."""

from __future__ import annotations

import itertools
import threading
import time
from random import Random

from tests.broker import wait_for
from tests.cluster.hosts import Host
from tests.cluster.matrix import checkers as check
from tests.cluster.matrix.churn import Churning
from tests.cluster.matrix.cluster import Cluster
from tests.cluster.matrix.faults import Fault
from tests.cluster.matrix.fight import Fight
from tests.cluster.matrix.flows import Flows, large_payloads, ledger, shared_group
from tests.cluster.matrix.history import History, Sample
from tests.cluster.matrix.load import Load
from tests.cluster.matrix.registers import Registers
from tests.cluster.matrix.rules import Changing
from tests.cluster.matrix.stores import differences
from tests.cluster.matrix.wills import Wills

DRAIN_S, PROGRESS_S, SAMPLE_S = 40.0, 30.0, 0.3
WARM = 20  # acknowledged messages of each publisher before the fault and after it
HOLDERS = {"sessions": "W8", "subs": "W8", "retained": "W6", "wills": "W7"}  # what else differs counts for W1
WORKLOADS = ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "W10", "W11")

Verdict = dict[str, list[str]]  # workload to what is wrong


def run(cluster: Cluster, fault: Fault, seed: int) -> Verdict:
    history = History()
    flows, registers, fight = ledger(history, cluster.client), Registers(history, cluster), Fight(history, cluster)
    shared, large = shared_group(history, cluster.client), large_payloads(history, cluster.client)
    loads: list[Load] = [
        flows, registers, Wills(history, cluster), Churning(history, cluster), shared, fight, large,
        Changing(history, cluster),
    ]  # fmt: skip
    sampler = Sampler(history, cluster.hosts)
    sampler.start()
    try:
        for load in loads:
            load.start()
        _progress(flows)
        before = _evictions(cluster) if fault.may_split else 0.0
        with history.window(fault.split):
            fault.strike(cluster, Random(seed), history)
            cluster.heal()
            cluster.wait_in_sync()
            history.split = history.split or (fault.may_split and _evictions(cluster) > before)
        _progress(flows)
    finally:
        cluster.heal()
        _end(loads)
        sampler.stop()
    registers.read()
    fight.read()
    verdict = judge(history, fault, differences(cluster.hosts))
    cluster.forget()
    return verdict


def _evictions(cluster: Cluster) -> float:
    """How often a host has given another one up."""
    pairs = itertools.permutations(cluster.hosts, 2)
    return sum(host.metric(f'mqnode_evictions_total{{peer="{other.name}"}}') for host, other in pairs)


def _progress(flows: Flows) -> None:
    before = {each.name: len(each.acked) for each in flows.publishers}
    wait_for(
        lambda: all(len(each.acked) >= before[each.name] + WARM for each in flows.publishers),
        PROGRESS_S, lambda: f"no progress: {[(each.name, len(each.acked), before[each.name]) for each in flows.publishers]}",
    )  # fmt: skip


def _end(loads: list[Load]) -> None:
    """Nothing new is begun, what is due arrives or does not, everybody goes."""
    for load in loads:
        load.drain()
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline and not all(load.drained() for load in loads):
        time.sleep(0.05)
    for load in loads:
        load.stop()


class Sampler(threading.Thread):
    """Asks each host what it says of itself."""

    def __init__(self, history: History, hosts: list[Host]) -> None:
        super().__init__(name="sampler", daemon=True)
        self.history, self.hosts = history, list(hosts)
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(SAMPLE_S):
            for host in self.hosts:
                asked = time.monotonic()
                text = str(host.get("/metrics")[1])
                lines = [line.rpartition(" ") for line in text.splitlines() if line[:1] not in ("", "#")]
                values = {name: value for name, _, value in lines}
                if "mqnode_degraded" in values:
                    resident = [float(value) for name, value in values.items() if "process_resident_bytes" in name]
                    degraded = float(values["mqnode_degraded"]) == 1
                    self.history.samples.append(
                        Sample(asked, time.monotonic(), host.name, degraded, int(max(resident, default=0)))
                    )

    def stop(self) -> None:
        self.stopping.set()
        self.join(30)


def judge(history: History, fault: Fault, differ: dict[str, str]) -> Verdict:
    verdict: Verdict = {workload: [] for workload in WORKLOADS}
    sources, steady, away = [f"flow-p{index}" for index in range(4)], "flow-steady", ("flow-away4", "flow-away5")
    for source, workload in zip(sources, ("W1", "W1", "W2", "W2"), strict=True):
        verdict[workload] += check.c1_nothing_is_lost(history, source, steady)
        verdict[workload] += check.c2_nothing_is_invented(history, source, steady)
        verdict["W3"] += [error for sink in (steady, *away) for error in check.c4_in_order(history, source, sink)]
        verdict["W4"] += [error for sink in away for error in check.c1_nothing_is_lost(history, source, sink)]
        if workload == "W2":
            for sink in (steady, away[0]):
                verdict["W2"] += check.c3_once(history, source, sink, forgives=not fault.stands_still)
        verdict[workload] += check.c6_sessions_are_there(history, source)
    verdict["W1"] += check.c8_no_long_gap(history, "flow-p", fault.gap_s) + check.c13_degraded_is_said(history)
    verdict["W1"] += check.c10_bounded(history) + check.c6_sessions_are_there(history, steady)
    verdict["W4"] += check.c6_sessions_are_there(history, *away)
    verdict["W6"] += [
        error for name in ("kept", "gone") for error in check.c7_registers_agree(history, f"register/{name}")
    ]
    verdict["W7"] += check.c11_wills_once(history) + check.c6_sessions_are_there(history, "will-")
    verdict["W8"] += check.churn_is_exact(history) + check.c6_sessions_are_there(history, "churn")
    verdict["W9"] += check.c1_nothing_is_lost(history, "shared-p", *(f"shared-m{index}" for index in range(3)))
    verdict["W9"] += check.c6_sessions_are_there(history, "shared-")
    verdict["W10"] += check.rules_hold(history) + check.c6_sessions_are_there(history, "rules-")
    verdict["W5"] += check.c5_one_owner(history) + check.c6_sessions_are_there(history, "fight")
    verdict["W11"] += check.c1_nothing_is_lost(history, "large-p", "large-slow")
    verdict["W11"] += check.c2_nothing_is_invented(history, "large-p", "large-slow")
    verdict["W11"] += check.c10_bounded(history) + check.c6_sessions_are_there(history, "large-")
    for database, text in differ.items():
        verdict[HOLDERS.get(database, "W1")].append(f"C9 {database}: {text}")
    return verdict
