"""Hundreds of runs of simulated hosts, each by its seed.

One again, with all that happened: MQNODE_SIM_SEED=N .venv/bin/python -m pytest tests/simulation
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from node import replicas
from tests.simulation.known import BUGS, TWO_HOSTS
from tests.simulation.scenario import Scenario

SHM = Path("/dev/shm")
GROUP = (
    4  # seeds by what they simulate: 0 two hosts, a fault at a time; 1 two, any faults; 2 and 3 three hosts likewise
)
SEEDS = range(400)
SOAK_SEEDS = range(400, 20_000)
ASKED = os.environ.get("MQNODE_SIM_SEED")


def simulate(seed: int) -> tuple[list[str], list[str]]:
    """(what went wrong, what happened)"""
    folder = Path(tempfile.mkdtemp(prefix="mqnode-sim-", dir=SHM if SHM.is_dir() else None))
    scenario = Scenario(seed, folder)
    kept, replicas.KEPT_COMMITS = replicas.KEPT_COMMITS, scenario.kept_commits
    try:
        return scenario.run(), scenario.world.trace
    finally:
        replicas.KEPT_COMMITS = kept
        scenario.close()
        shutil.rmtree(folder)


def check(seed: int) -> None:
    wrong, trace = simulate(seed)
    if wrong and ASKED:
        print(*trace, sep="\n")
    assert not wrong, f"MQNODE_SIM_SEED={seed}: " + "; ".join(wrong)


def failing(seeds: range) -> list[int]:
    return [seed for seed in seeds if simulate(seed)[0]]


@pytest.mark.parametrize("seed", [int(ASKED)] if ASKED else [])
def test_one(seed: int) -> None:
    check(seed)


@pytest.mark.skipif(ASKED is not None, reason="one seed was asked for")
@pytest.mark.parametrize("kind", [0, 1], ids=["a_fault_at_a_time", "any_faults"])
def test_two_hosts(kind: int) -> None:
    for seed in SEEDS[kind::GROUP]:
        if seed not in TWO_HOSTS:
            check(seed)


@pytest.mark.skipif(ASKED is not None, reason="one seed was asked for")
@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=pytest.mark.xfail(strict=True, reason=BUGS[bug])) for seed, bug in TWO_HOSTS.items()],
)
def test_known(seed: int) -> None:
    """Take a seed off the list when what it shows is mended."""
    check(seed)


@pytest.mark.skipif(ASKED is not None, reason="one seed was asked for")
@pytest.mark.xfail(strict=True, reason=BUGS["late put"])
@pytest.mark.parametrize("kind", [2, 3], ids=["a_fault_at_a_time", "any_faults"])
def test_three_hosts(kind: int) -> None:
    assert failing(SEEDS[kind:40:GROUP]) == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [0, 1])
def test_many(kind: int) -> None:
    assert failing(SOAK_SEEDS[kind::GROUP]) == []
