"""Simulated time and the network between hosts, to the contract of mesh/transport.py.

A channel carries frames in order and loses none while it is up. It ends at its two sides at different times; a side may be
told so at once, or only when it has heard nothing for 3 s (EVICTED). What is under way then is lost, a prefix may arrive.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.host import Host

EVICT_MS = 3000


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0  # ms
        self.trace: list[str] = []
        self.wrong: list[str] = []  # what must not be
        self.loses_disks = self.was_cut = False
        self._minted: dict[tuple[int, int], str] = {}  # (session, number in its queue) -> message
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, delay_ms: float, action: Callable[[], None]) -> None:
        self.at_time(self.now + delay_ms, action)

    def at_time(self, due: float, action: Callable[[], None]) -> None:
        """Of two planned for the same time the first goes first."""
        self._number += 1
        heapq.heappush(self._planned, (due, self._number, action))

    def run(self, for_ms: float) -> None:
        until = self.now + for_ms
        while self._planned and self._planned[0][0] <= until:
            self.now, _, action = heapq.heappop(self._planned)
            action()
        self.now = max(self.now, until)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def say(self, text: str) -> None:
        self.trace.append(f"{self.now:9.1f} {text}")

    def fault(self, text: str) -> None:
        self.wrong.append(text)
        self.say(f"WRONG {text}")

    def minted(self, sid: int, qseq: int, id: str) -> bool:
        """I3: has this number of a queue stood for no other message, at any host?"""
        return self._minted.setdefault((sid, qseq), id) == id


class Wire:
    """One direction: in order, each item takes a while. What arrives while the `receiver` stands still it reads later."""

    def __init__(
        self, world: World, deliver: Callable[[Any], None], slowest_ms: float, receiver: Host | None = None
    ) -> None:
        self._world, self._deliver, self._slowest_ms, self._receiver = world, deliver, slowest_ms, receiver
        self._last = self._read_at = 0.0
        self._ends = float("inf")

    def send(self, item: Any) -> None:
        world = self._world
        self._last = max(self._last, world.now + world.random.uniform(0.05, self._slowest_ms))
        world.at_time(self._last, lambda: self._arrive(item))

    def _arrive(self, item: Any) -> None:
        world, receiver = self._world, self._receiver
        if receiver is not None and receiver.stands_until > max(world.now, self._read_at):
            self._read_at = receiver.stands_until + world.random.uniform(0, 2)
        if world.now < self._read_at:
            world.at_time(self._read_at, lambda: self._arrive(item))
        elif world.now < self._ends:
            self._deliver(item)

    def stall(self, until: float) -> None:
        self._last = max(self._last, until)

    def end(self, after_ms: float = 0) -> None:
        self._ends = min(self._ends, self._world.now + after_ms)


class Side:
    """What one host thinks of its link to another."""

    def __init__(self, host: Host, other: Host) -> None:
        self.host, self.other = host, other
        self.is_up = False
        self.evicted = False
        self.wire: Wire | None = None  # what we send

    def up(self) -> None:
        self.is_up, self.evicted = True, False
        self.host.interconnect.tell_up(self.other.node_id)

    def down(self, evicted: bool) -> None:
        if self.host.interconnect.runs and not (self.evicted and evicted):
            self.is_up, self.evicted = False, evicted
            self.host.interconnect.tell("peer_down", node_id=self.other.node_id, evicted=evicted)


class Pair:
    """The way between two hosts."""

    def __init__(self, world: World, a: Host, b: Host) -> None:
        self._world = world
        self.sides = {a.index: Side(a, b), b.index: Side(b, a)}
        for index, side in self.sides.items():
            side.host.pairs[side.other.node_id] = self
            assert side.host.index == index
        self.is_cut = False
        self._epoch = 0  # counts openings and breaks

    def send(self, host: Host, body: bytes) -> None:
        side = self.sides[host.index]
        if side.is_up and side.wire is not None:
            side.wire.send(body)

    @property
    def is_open(self) -> bool:
        return all(side.is_up for side in self.sides.values())

    def break_channel(self, silent: bool) -> None:
        """It ends, at each side in its own time. `silent`: nobody is told; without a new channel both evict."""
        world = self._world
        self._epoch += 1
        epoch, since = self._epoch, world.now
        for side in self.sides.values():
            if side.wire is not None:  # one way may go on for a while: a cut of one direction
                side.wire.end(world.random.choice([0.0, 0.0, 2.0, 900.0]))
            if side.is_up and (not silent or world.chance(0.3)):
                world.at(world.random.uniform(0, 900), lambda side=side: self._lost(side, epoch))  # type: ignore[misc]
            delay = since + EVICT_MS + world.random.uniform(-200, 200) - world.now
            world.at(delay, lambda side=side: self._evict(side, epoch))  # type: ignore[misc]

    def _lost(self, side: Side, epoch: int) -> None:
        if epoch == self._epoch and side.is_up:
            side.down(False)

    def _evict(self, side: Side, epoch: int) -> None:
        if epoch == self._epoch:
            world = self._world
            world.say(f"{side.host} evicts {side.other}")
            side.down(True)

    def stall(self) -> None:
        """Nothing arrives for a while; then all does, in order."""
        until = self._world.now + self._world.random.uniform(100, 2500)
        for side in self.sides.values():
            if side.wire is not None and self._world.chance(0.7):
                side.wire.stall(until)

    def stands_still(self, host: Host) -> None:
        """The other one evicts it; when it wakes up it is told that by the new channel (mesh/detector.py)."""
        world, side, other = self._world, self.sides[host.index], self.sides[self.sides[host.index].other.index]
        epoch = self._epoch

        def evict() -> None:
            if epoch == self._epoch and host.stands_until > world.now:
                self._epoch += 1
                world.was_cut = True
                self._evict(other, self._epoch)
                if side.wire is not None:
                    side.wire.end()
                world.at_time(host.stands_until + world.random.uniform(0, 10), lambda epoch=self._epoch: wake_up(epoch))  # type: ignore[misc]

        def wake_up(evicted: int) -> None:
            self._lost(side, evicted)
            if other.wire is not None:
                other.wire.end()
            self.open_soon()

        world.at(EVICT_MS + world.random.uniform(-200, 200), evict)

    def cut(self) -> None:
        self.is_cut = self._world.was_cut = True
        self.break_channel(True)

    def heal(self) -> None:
        self.is_cut = False
        self.open_soon()

    def open_soon(self) -> None:
        self._world.at(self._world.random.uniform(1, 300), self._open)

    def _open(self) -> None:
        sides = list(self.sides.values())
        if self.is_cut or self.is_open_now() or not all(side.host.interconnect.runs for side in sides):
            return
        world = self._world
        self._epoch += 1
        for side in sides:
            if side.wire is not None:
                side.wire.end()
            if side.is_up:
                side.down(False)
        for side in sides:
            other = self.sides[side.other.index]
            side.wire = Wire(
                world, lambda body, to=other: to.host.interconnect.from_peer(to.other, body), 4, other.host
            )  # type: ignore[misc]
        epoch, late = self._epoch, world.random.uniform(0, 20)
        world.random.shuffle(sides)
        sides[0].wire.stall(world.now + late + 0.01)  # type: ignore[union-attr]
        sides[0].up()
        world.at(late, lambda: sides[1].up() if epoch == self._epoch and sides[1].host.interconnect.runs else None)

    def is_open_now(self) -> bool:
        """Up at both sides, and not broken since."""
        return self.is_open and all(
            side.wire is not None and side.wire._ends == float("inf") for side in self.sides.values()
        )
