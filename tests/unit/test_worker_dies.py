"""What a keeper does with the clients of a worker that has died."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.config import Limits
from node.keeper.heals import Heals
from node.sessions.directory import Directory
from node.sessions.outbox import REPLY
from storage.store import open_store
from storage.writer import Writer
from tests.simulation.leaving import SILENT


class WorkerLink:
    def __init__(self, index: int) -> None:
        self.index = index


@pytest.mark.parametrize("expiry_s", [0, 60])
def test_a_client_whose_connections_were_at_a_worker_that_died_gets_in(tmp_path: Path, expiry_s: int) -> None:
    """It has come there twice, and then to another one, before the first connection was ended."""
    store = open_store(tmp_path, 1 << 24, 1 << 30)
    writer = Writer(store.environment, store.databases, Limits(), store.number)
    directory = Directory(writer, store.number, 2, Heals(writer, SILENT))
    directory.load(*store.contents(), 0)
    dies, lives = WorkerLink(0), WorkerLink(1)
    steps: list[Callable[[int], Any]] = [
        lambda now: [directory.worker_came(each, [], now) for each in (dies, lives)],
        *[
            lambda now, link=link, number=number: directory.requests.take(
                link, number, "claim", ["X", number, False, expiry_s, None, None, now], now
            )
            for number, link in enumerate((dies, dies, lives), 1)
        ],
        lambda now: directory.worker_left(dies, now),
    ]
    said = []
    for now, step in enumerate(steps, 1):
        writer.begin()
        directory.tick(now * 10)
        step(now * 10)
        writer.commit()
        said += directory.outbox.take() + directory.outbox.take_urgent()
    assert [message[1] for link, kind, message in said if link is lives and kind == REPLY] == [True]
