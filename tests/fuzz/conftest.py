"""One broker under attack for all of them. MQNODE_FUZZ_SEED=N repeats the choices of a run; every test prints its seed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random, SystemRandom

import pytest

from tests.fuzz.target import Target, attacked

SEED = int(os.environ.get("MQNODE_FUZZ_SEED") or SystemRandom().randrange(10**9))


@pytest.fixture(scope="package")
def running_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("fuzz")) as found:
        yield found
        found.check_nobody_stays()


@pytest.fixture
def target(running_target: Target) -> Iterator[Target]:
    """As sound behind the test as before it."""
    yield running_target
    running_target.check()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Random:
    print(f"MQNODE_FUZZ_SEED={SEED}")
    return Random(f"{SEED} {request.node.name}")
