"""Loss of power under load: no acknowledged message, session or flow is lost, and the store opens (guarantees.md, F5)."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

from tests.broker import Broker, wait_for
from tests.faults.ledger import Ledger
from tests.faults.power import Power, build
from tests.faults.test_kill import SEED
from tests.mqtt import Client

ROUNDS, SOAK_ROUNDS = 6, 200


def run(folder: Path, rounds: int) -> None:
    print(f"MQNODE_FAULT_SEED={SEED}")
    chance = Random(SEED)
    power = Power(build(folder), folder / "unsynced")
    broker = Broker(environ=power.environ)
    lost = 0
    try:
        broker.start()
        ledger = Ledger(lambda version: Client(broker.port, version, timeout_s=15), SEED)
        ledger.start()
        for _ in range(rounds):
            time.sleep(chance.uniform(0.1, 0.8))
            wait_for(lambda: power.is_writing, 5)
            broker.kill_all()
            lost += power.cut(broker.data_dir, chance)
            broker.start()
        print(f"{lost} sectors lost")
        ledger.settle()
        assert lost, "each cut came when everything was written"
        assert all(len(each.acked) > rounds for each in ledger.publishers), ledger.summary()
    finally:
        broker.close()


@pytest.mark.timeout(300)
def test_what_was_acknowledged_outlives_the_power(tmp_path: Path) -> None:
    run(tmp_path, ROUNDS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_what_was_acknowledged_outlives_200_cuts(tmp_path: Path) -> None:
    run(tmp_path, SOAK_ROUNDS)
