"""The fault matrix on real hosts: docs/faults.md. One run of a fault carries all workloads; each cell is a test of its own."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.cluster.matrix.cells import always
from tests.cluster.matrix.cluster import Cluster, running_cluster
from tests.cluster.matrix.faults import FAULTS, those_of
from tests.cluster.matrix.run import Verdict, run
from tests.cluster.network import need_namespaces

SEED = int(os.environ.get("MQNODE_FAULT_SEED", random.SystemRandom().randrange(1 << 32)))
SOAK_RUNS = 40
CELLS = [
    pytest.param(name, workload, id=f"{fault.id}-{name}-{workload}")
    for name, fault in FAULTS.items()
    for workload in always(fault)
]


class Runs:
    """Faults strike one cluster after the other; after a failure a new one is made. Each verdict is kept for its cells."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack, self.cluster = stack, None
        self.verdicts: dict[str, Verdict | Exception] = {}

    def verdict(self, name: str) -> Verdict:
        if name not in self.verdicts:
            self.verdicts[name] = self._run(name)
        found = self.verdicts[name]
        if isinstance(found, Exception):
            raise AssertionError(f"the run broke off: {found}") from found
        return found

    def _run(self, name: str) -> Verdict | Exception:
        print(f"MQNODE_FAULT_SEED={SEED}")
        try:
            self.cluster = self.cluster or self.stack.enter_context(running_cluster())
            verdict = run(self.cluster, FAULTS[name], SEED)
        except Exception as error:  # it belongs to every cell of the run
            self._anew()
            return error
        if any(verdict.values()) or len(self.cluster.network.hosts) != len(self.cluster.hosts) + 1:
            self._anew()
        return verdict

    cluster: Cluster | None

    def _anew(self) -> None:
        self.cluster = None
        self.stack.close()


@pytest.fixture(scope="module")
def verdict() -> Iterator[Callable[[str], Verdict]]:
    need_namespaces()
    with ExitStack() as stack:
        yield Runs(stack).verdict


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("name", "workload"), CELLS)
def test_cell(verdict: Callable[[str], Verdict], name: str, workload: str) -> None:
    errors = verdict(name)[workload]
    assert not errors, "\n".join(errors)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("hosts", [2, 3])
def test_any_cell_by_seed(hosts: int) -> None:
    need_namespaces()
    print(f"MQNODE_FAULT_SEED={SEED}")
    chance = random.Random(SEED)
    wrong = []
    for _ in range(SOAK_RUNS):
        name, seed = chance.choice(those_of(hosts)), chance.randrange(1 << 32)
        with running_cluster(hosts) as cluster:
            verdict = run(cluster, FAULTS[name], seed)
        wrong += [f"{name} {seed} {workload}: {error}" for workload, errors in verdict.items() for error in errors]
    assert not wrong, "\n".join(wrong)
