"""What the clients of one run did and saw, on one clock, and when which fault held: what the checkers look at, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Event(NamedTuple):
    at: float
    who: str
    kind: str  # sent, acked, got, connected, …: each driver says which it has
    what: Any
    where: str = ""  # the host, if the client chose one


class Window(NamedTuple):
    """From the first moment of a fault to the moment when the hosts were in sync again."""

    began: float
    ended: float
    split: bool  # hosts did not see each other, so one side need not know what the other one acknowledged


class Sample(NamedTuple):
    """What a host said of itself. `asked`: the question left then."""

    asked: float
    answered: float
    host: str
    degraded: bool
    resident_bytes: int


class History:
    """Appended to by all threads of a run; read when they have ended."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.windows: list[Window] = []
        self.samples: list[Sample] = []
        self.split = False  # now
        self.alone: list[tuple[float, float]] = []  # when no host could reach another one

    def add(self, who: str, kind: str, what: Any = None, where: str = "") -> None:
        self.events.append(Event(time.monotonic(), who, kind, what, where))

    def of(self, who: str, *kinds: str) -> list[Event]:
        """The events of everybody whose name begins so, in their order."""
        return [event for event in self.events if event.who.startswith(who) and event.kind in kinds]

    @contextmanager
    def window(self, split: bool) -> Iterator[None]:
        """What turns out later to have split them is said by `split`."""
        self.split, began = split, time.monotonic()
        try:
            yield
        finally:
            self.windows.append(Window(began, time.monotonic(), self.split))
            self.split = False

    @contextmanager
    def nobody_else(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.alone.append((began, time.monotonic()))

    def in_window(self, began: float, ended: float, *, split: bool = False) -> bool:
        """Whether a fault (a split, if asked for) held at any time between the two."""
        return any(w.began <= ended and began <= w.ended and (w.split or not split) for w in self.windows)

    def write(self, path: Path) -> None:
        with path.open("w") as file:
            for event in self.events:
                file.write(json.dumps(event._asdict(), default=str) + "\n")
