"""`make faults`: strikes with every fault of the matrix and writes docs/faults.md; with names of faults it only prints."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.cluster.matrix.cluster import running_cluster
from tests.cluster.matrix.faults import FAULTS, those_of
from tests.cluster.matrix.report import write
from tests.cluster.matrix.run import WORKLOADS, Verdict, run
from tests.cluster.network import unavailable


def struck(name: str, hosts: int, seed: int) -> Verdict:
    """A run that breaks off shows nothing of any workload."""
    began = time.monotonic()
    try:
        with running_cluster(hosts) as cluster:
            verdict = run(cluster, FAULTS[name], seed)
    except Exception as error:
        verdict = {workload: [f"the run broke off: {error!s:.1500}"] for workload in WORKLOADS}
    marks = " ".join(workload + ("+" if not errors else "-") for workload, errors in verdict.items())
    print(f"{hosts} hosts, {name}: {marks} ({time.monotonic() - began:.0f} s)", flush=True)
    for error in dict.fromkeys(error for errors in verdict.values() for error in errors):
        print(f"    {error:.1500}", flush=True)
    return verdict


def main() -> None:
    parser = argparse.ArgumentParser(prog="make faults")
    parser.add_argument("names", nargs="*", metavar="FAULT", help=f"any of: {' '.join(FAULTS)}")
    parser.add_argument("--hosts", type=int, nargs="+", default=[2], help="sizes of the cluster: 2, 3, or both")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if reason := unavailable():
        sys.exit(reason)
    verdicts = {
        hosts: {name: struck(name, hosts, asked.seed) for name in asked.names or those_of(hosts)}
        for hosts in asked.hosts
    }
    if not asked.names:
        write(verdicts, asked.seed)
    sys.stdout.flush()
    os._exit(0)  # whatever a broken run left behind


if __name__ == "__main__":
    main()
