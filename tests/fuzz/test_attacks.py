"""Whatever clients send, the broker serves the others (hardening.md S01, S05, S09, S26)."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest

from tests.fuzz import attacks, layers
from tests.fuzz.target import Target

ALL = (*attacks.ATTACKS, *layers.ATTACKS)
EACH_S = 0.75
SOAK_S, TURN_S = 600, 5.0


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.__name__)
def test_others_are_served_during(attack: Any, target: Target, rng: Random) -> None:
    attack(target, rng, time.monotonic() + EACH_S)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 120)
def test_others_are_served_for_long(target: Target, rng: Random) -> None:
    end = time.monotonic() + SOAK_S
    while time.monotonic() < end:
        attack = rng.choice(ALL)
        print(attack.__name__)
        attack(target, rng, time.monotonic() + TURN_S)
        target.check()
