"""Clients on a chosen worker: the kernel spreads connections by their source port, so try until one lands there."""

from __future__ import annotations

from typing import Any

from tests.broker import Broker
from tests.mqtt import Client

TRIES = 100


def worker_of(broker: Broker, client_id: str) -> int:
    status, answer = broker.get(f"/v1/clients/{client_id}")
    assert status == 200, answer
    return int(answer["worker"])


def on_worker(broker: Broker, worker: int, client_id: str, version: int = 5, **options: Any) -> Client:
    """A connected client of that worker. Earlier tries are taken over, so the session stays one and the same."""
    for _ in range(TRIES):
        client = Client(broker.port, version)
        client.connect(client_id, **options)
        if worker_of(broker, client_id) == worker:
            return client
        client.close()
    raise AssertionError(f"no connection of {TRIES} reached worker {worker}")
