"""What is to be done at a time: a heap of actions. Time is an argument (ms)."""

from __future__ import annotations

import heapq
from collections.abc import Callable

AT_ONCE = 2000  # a fraction of the heartbeat: of 100,000 sessions that end at the same time, say


class Timers:
    def __init__(self) -> None:
        self._planned: list[tuple[int, int, Callable[[int], None]]] = []
        self._number = 0  # of those due at once, the first planned comes first

    def at(self, due_ms: int, action: Callable[[int], None]) -> None:
        """Call `action(now_ms)` once it is `due_ms`."""
        self._number += 1
        heapq.heappush(self._planned, (due_ms, self._number, action))

    def run(self, now_ms: int) -> None:
        """What these actions plan for the same time waits for the next call, and so does what is due beyond AT_ONCE of them."""
        due: list[Callable[[int], None]] = []
        while self._planned and self._planned[0][0] <= now_ms and len(due) < AT_ONCE:
            due.append(heapq.heappop(self._planned)[2])
        for action in due:
            action(now_ms)

    @property
    def next_ms(self) -> int | None:
        return self._planned[0][0] if self._planned else None
