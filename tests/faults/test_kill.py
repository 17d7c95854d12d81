"""kill -9 and SIGSTOP of any process of a host, at random moments under load: no acknowledged message is lost (guarantees.md)."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.broker import Broker, running, wait_for
from tests.faults.ledger import Ledger
from tests.mqtt import Client

ROUNDS, SOAK_ROUNDS = 20, 500
SEED = int(os.environ.get("MQNODE_FAULT_SEED", random.SystemRandom().randrange(1 << 32)))


def kill(broker: Broker, name: str) -> None:
    broker.replace(name)


def kill_all(broker: Broker, _: str) -> None:
    broker.kill_all()
    broker.start()


def pause(broker: Broker, name: str) -> None:
    """A stop shorter than the heartbeat's limit: all must go on as before."""
    pid = broker.signal(name, signal.SIGSTOP)
    time.sleep(0.7)
    os.kill(pid, signal.SIGCONT)


def hang(broker: Broker, name: str) -> None:
    """A stop without end: the watchdog kills the process, supervisord starts it anew."""
    wait_for(lambda: broker.age_s(name) > 6, 20, f"{name} is too young to be judged by its heartbeat")
    broker.replace(name, signal.SIGSTOP)


def run(rounds: int, faults: list[tuple[Callable[[Broker, str], None], str]], seed: int) -> None:
    print(f"MQNODE_FAULT_SEED={seed}")
    random_ = random.Random(seed)
    with running() as broker:
        ledger = Ledger(lambda version: Client(broker.port, version, timeout_s=15), seed)
        ledger.start()
        for _ in range(rounds):
            time.sleep(random_.uniform(0.1, 0.8))
            fault, name = random_.choice(faults)
            fault(broker, name)
            broker.wait_ready()
        ledger.settle()
        assert all(len(each.acked) > rounds for each in ledger.publishers), ledger.summary()


KILLS = [(kill, "worker-0"), (kill, "worker-1"), (kill, "keeper"), (kill_all, "")]
PAUSES = [(pause, "worker-0"), (pause, "worker-1"), (pause, "keeper")]


@pytest.mark.timeout(300)
def test_kill_9_of_any_process_loses_nothing() -> None:
    run(ROUNDS, KILLS, SEED)


@pytest.mark.timeout(120)
def test_sigstop_of_any_process_loses_nothing() -> None:
    run(8, PAUSES, SEED)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["worker-0", "keeper"])
def test_a_hung_process_is_replaced_and_nothing_is_lost(name: str) -> None:
    run(1, [(hang, name)], SEED)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_kill_9_and_sigstop_500_times() -> None:
    run(SOAK_ROUNDS, KILLS + PAUSES, SEED)
