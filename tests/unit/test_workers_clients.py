"""What a keeper does with the clients of a worker that has died, and with those who changed workers while it was away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.config import Limits
from node.keeper.heals import Heals
from node.sessions.directory import RESTART_GRACE_MS, Directory
from node.sessions.outbox import REPLY
from storage.store import open_store
from storage.writer import Writer
from tests.simulation.leaving import SILENT

Step = Callable[[int], Any]


class WorkerLink:
    def __init__(self, index: int) -> None:
        self.index = index


class Life:
    """A keeper's directory over the store in that folder."""

    def __init__(self, folder: Path) -> None:
        self._store = store = open_store(folder, 1 << 24, 1 << 30)
        self._writer = Writer(store.environment, store.databases, Limits(), store.number)
        self.directory = Directory(self._writer, store.number, 2, Heals(self._writer, SILENT))
        store.start_clock(0, 0, b"")
        self.directory.load(*store.contents(), 0)

    def turns(self, *steps: Step, now_ms: int = 0) -> list[tuple[Any, int, Any]]:
        """One for each, 10 ms apart; what is said."""
        said = []
        for step in steps:
            now_ms += 10
            self._writer.begin()
            self.directory.tick(now_ms)
            step(now_ms)
            self._writer.commit()
            said += self.directory.outbox.take() + self.directory.outbox.take_urgent()
        return said

    def asks(self, link: WorkerLink, method: str, *arguments: Any) -> Step:
        return lambda now: self.directory.requests.take(link, 1, method, [*arguments], now)

    def came(self, link: WorkerLink, *clients: list[Any]) -> Step:
        return lambda now: self.directory.worker_came(link, [*clients], now)

    def end(self) -> None:
        self._store.environment.close()


@pytest.mark.parametrize("expiry_s", [0, 60])
def test_a_client_whose_connections_were_at_a_worker_that_died_gets_in(tmp_path: Path, expiry_s: int) -> None:
    """It has come there twice, and then to another one, before the first connection was ended."""
    life, dies, lives = Life(tmp_path), WorkerLink(0), WorkerLink(1)
    said = life.turns(
        life.came(dies),
        life.came(lives),
        *[
            life.asks(link, "claim", "X", number, False, expiry_s, None, None, 0)
            for number, link in enumerate((dies, dies, lives), 1)
        ],
        lambda now: life.directory.worker_left(dies, now),
    )
    assert [message[1] for link, kind, message in said if link is lives and kind == REPLY] == [True]


@pytest.mark.parametrize("first", ["old", "new"])
def test_no_will_of_who_said_goodbye_and_came_to_another_worker_while_the_keeper_was_away(
    tmp_path: Path, first: str
) -> None:
    """The next keeper hears of the new connection before the old one's end, or after it. The new one's will stays."""
    old, new, life = WorkerLink(0), WorkerLink(1), Life(tmp_path)
    life.turns(life.came(old), life.came(new), life.asks(old, "claim", "X", 1, True, 0, None, will(b"old"), 0))
    life.end()
    life = Life(tmp_path)
    steps = {
        "old": [life.came(old, ["X", 1, 0, 0]), life.asks(old, "detach", "X", 1, 0, "drop", 0)],
        "new": [life.came(new), life.asks(new, "claim", "X", 2, True, 0, None, will(b"new"), 0)],
    }
    said = life.turns(*steps.pop(first), *steps.popitem()[1])
    said += life.turns(lambda now: None, lambda now: None, now_ms=RESTART_GRACE_MS + 100)
    assert "publish_will" not in str(said)
    gone = life.turns(life.asks(new, "detach", "X", 2, 0, "keep", 0), lambda now: None, now_ms=RESTART_GRACE_MS + 200)
    assert [message[2]["record"] for _, _, message in gone if message[1] == "publish_will"] == [b"new"]


def will(record: bytes) -> dict[str, Any]:
    return {"delay_s": 0, "record": record}
