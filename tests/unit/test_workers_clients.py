"""What a keeper does with the clients of a worker that has died, and with those who changed workers while it was away."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.config import Limits
from node.keeper.heals import Heals
from node.sessions.directory import RESTART_GRACE_MS, Directory
from node.sessions.outbox import REPLY
from node.sessions.timers import AT_ONCE
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
        self.beats = 0
        self.directory = Directory(self._writer, store.number, 2, Heals(self._writer, SILENT), self._beat)
        store.start_clock(0, 0, b"")
        self.directory.load(*store.contents(), 0)

    def _beat(self) -> None:
        self.beats += 1

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


@pytest.mark.parametrize(
    ("is_new", "expiry_s", "less_s", "every_ms", "remembered_bytes"),
    [
        pytest.param(True, 86_400, 0, 10, 150, id="begins anew, and would last for a day"),
        pytest.param(True, 1, 0, 2000, 150, id="ends by itself before the next"),
        pytest.param(False, 864_000, 20, 10, 50, id="goes on, and would last less long each time"),
    ],
)
def test_a_session_that_comes_and_goes_all_day_long_leaves_nothing_behind(
    tmp_path: Path, is_new: bool, expiry_s: int, less_s: int, every_ms: int, remembered_bytes: int
) -> None:
    """Beside another one, which lasts for a month. Of each that has ended the store remembers a little for a while."""
    count = 5000
    link, life = WorkerLink(0), Life(tmp_path)
    directory = life.directory

    def comes_and_goes(client: str, expiry_s: int, now_ms: int) -> None:
        directory.tick(now_ms)
        life.asks(link, "claim", client, 1, is_new, expiry_s, None, None, 0)(now_ms)
        life.asks(link, "detach", client, 1, expiry_s, "drop", 0)(now_ms)
        directory.outbox.take()
        directory.outbox.take_urgent()

    def comes_and_goes_often(number: int) -> None:
        for each in range(number, number + count):
            comes_and_goes("X", expiry_s - each * less_s, each * every_ms)

    life.turns(life.came(link), lambda now: comes_and_goes("another", 30 * 86_400, 0))
    life.turns(lambda now: comes_and_goes_often(1))
    tracemalloc.start()
    try:
        life.turns(lambda now: comes_and_goes_often(1 + count), now_ms=count * every_ms)
        left_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left_bytes / count < remembered_bytes


def test_all_sessions_of_a_host_that_starts_end_in_turns(tmp_path: Path) -> None:
    """Between these the keeper's heart beats. Who comes meanwhile has its session."""
    count = 2 * AT_ONCE + 1
    link, life = WorkerLink(0), Life(tmp_path)
    claims = [life.asks(link, "claim", str(each), each, False, 60, None, None, 0) for each in range(1, count + 1)]
    life.turns(life.came(link), lambda now: [claim(now) for claim in claims])
    life.end()
    life = Life(tmp_path)
    life.turns(life.came(link))
    detached = []
    for turn in range(6):
        life.turns(
            life.asks(link, "claim", str(count), 1, False, 60, None, None, 0) if turn == 1 else lambda now: None,
            now_ms=RESTART_GRACE_MS,
        )
        detached.append(sum(not each.attached for each in life.directory.sessions.values()))
    assert detached[0] == AT_ONCE
    assert AT_ONCE < detached[1] <= 2 * AT_ONCE
    assert detached[-1] == count - 1


def test_a_worker_with_many_clients_dies_or_says_that_it_has_them_while_the_heart_beats(tmp_path: Path) -> None:
    count = 2 * AT_ONCE + 1
    link, life = WorkerLink(0), Life(tmp_path)
    clients = [[str(each), each, 0, 0] for each in range(count)]
    life.turns(life.came(link, *clients))
    assert life.beats == 3
    life.turns(lambda now: life.directory.worker_left(link, now))
    assert life.beats == 6
    assert not life.directory.owners.at(link)
