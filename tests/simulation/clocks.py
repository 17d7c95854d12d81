"""Runs in which the hosts' clocks differ: by up to hours, monotonic ones begin anywhere with each boot, and wall clocks are set at
random. Sessions end as in lives.py; none ends before its time, and while all are in sync so are the clocks of their stores.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from node.keeper import peer_commits, shared_clock
from tests.simulation.host import Host
from tests.simulation.lives import Lives

CLOCKS = 5_000_000  # seeds from here on are such runs
OFF_MS = (0, 0, 500, 90_000, 3_600_000, 7_200_000)
APART_MS = 300
WALL_MS = 1_000_000_000


class TimedHost(Host):
    _boots = 0
    _switched_on_ms = _monotonic_ms = _wall_ms = 0

    def start(self) -> None:
        world = self.world
        self._boots += 1
        self._switched_on_ms = int(world.now)
        self._monotonic_ms = world.random.randrange(10_000_000)
        self.set_clock()
        super().start()

    def set_clock(self) -> None:
        world = self.world
        self._wall_ms = WALL_MS + world.random.choice([-1, 1]) * world.random.choice(OFF_MS)
        world.say(f"{self}'s wall clock: {self._wall_ms - WALL_MS} ms")

    def times(self) -> tuple[int, int, bytes]:
        now_ms = int(self.world.now)
        boot = self._boots.to_bytes(16, "big")
        return now_ms + self._wall_ms, now_ms - self._switched_on_ms + self._monotonic_ms, boot


class Clocks(Lives):
    host_kind = TimedHost

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self.clients[2].expiry_s, self.clients[2].early_ms = 6, 3000

    def run(self) -> list[str]:
        renewed = mock.patch.object(peer_commits, "RENEWED_BYTES", 1)  # a commit for each session
        with mock.patch.object(shared_clock, "APART_MS", APART_MS), renewed:
            return super().run()

    def _fault(self) -> None:
        if self.world.chance(0.3):
            host = self.world.random.choice(self.hosts)
            assert isinstance(host, TimedHost)
            host.set_clock()
        else:
            super()._fault()

    def _check(self) -> None:
        super()._check()
        clocks = [host.keeper.now_ms() for host in self.hosts if host.keeper is not None]
        if not self.wild and max(clocks) - min(clocks) > self.clients[2].early_ms:
            self.world.wrong.append(f"the clocks of the stores differ: {clocks}")
