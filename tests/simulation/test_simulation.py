"""Hundreds of runs of simulated hosts, each by its seed.

One again, with all that happened: MQNODE_SIM_SEED=N .venv/bin/python -m pytest tests/simulation
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from node import replicas
from tests.simulation.known import BUGS, KNOWN
from tests.simulation.scenario import FURTHER, Scenario

SHM = Path("/dev/shm")
SEEDS = range(2000)  # of four: 0 two hosts, a fault at a time; 1 two, any faults; 2 and 3 three hosts likewise
FURTHER_SEEDS = range(FURTHER, FURTHER + 80)
SOAK_SEEDS = range(2000, FURTHER), range(FURTHER + 80, FURTHER + 10_000)
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


def wrong_in(seed: int) -> str:
    return "; ".join(simulate(seed)[0])


def failing(seeds: Iterable[int]) -> dict[int, str]:
    """{seed: what went wrong}, on all cores."""
    seeds = list(seeds)
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        return {
            seed: wrong for seed, wrong in zip(seeds, pool.map(wrong_in, seeds, chunksize=10), strict=True) if wrong
        }


@pytest.mark.parametrize("seed", [int(ASKED)] if ASKED else [])
def test_one(seed: int) -> None:
    check(seed)


@pytest.mark.skipif(ASKED is not None, reason="one seed was asked for")
@pytest.mark.timeout(1800)  # a minute on two free cores
def test_two_and_three_hosts() -> None:
    assert failing(seed for seed in SEEDS if seed not in KNOWN) == {}


@pytest.mark.skipif(ASKED is not None, reason="one seed was asked for")
@pytest.mark.timeout(600)  # ten seconds on two free cores
def test_strict_and_five_hosts() -> None:
    assert failing(seed for seed in FURTHER_SEEDS if seed not in KNOWN) == {}


@pytest.mark.skipif(ASKED is not None, reason="one seed was asked for")
@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=pytest.mark.xfail(strict=True, reason=BUGS[bug])) for seed, bug in KNOWN.items()],
)
def test_known(seed: int) -> None:
    """Take a seed off the list when what it shows is mended."""
    check(seed)


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_many() -> None:
    assert failing(itertools.chain(*SOAK_SEEDS)) == {}
