"""Runs in which a host stands still, often for longer than the others wait for it, while its clients go on at another one. When it
wakes up it reads what was sent to it before. Nothing is lost, and nothing is delivered twice.
"""

from __future__ import annotations

from tests.simulation.host import Host
from tests.simulation.scenario import TOPICS, Scenario

STANDING = 12_000_000  # seeds from here on are such runs


class Standing(Scenario):
    def _faults(self) -> None:
        self.wild = False
        super()._faults()

    @property
    def is_healthy(self) -> bool:
        return all(host.stands_until <= self.world.now for host in self.hosts) and super().is_healthy

    def _fault(self) -> None:
        world = self.world
        if world.chance(0.3):
            super()._fault()
            return
        host = world.random.choice(self.hosts)
        for_ms = world.random.choice([500, world.random.uniform(2700, 3300), 3500, 5000])
        world.say(f"{host} stands still for {for_ms:.0f} ms")
        host.stand_still(for_ms, world.chance(0.5))

    @property
    def places(self) -> list[Host]:
        awake = [host for host in self.hosts if host.stands_until <= self.world.now]
        return awake if self.world.chance(0.9) else self.hosts

    def _client_acts(self) -> None:
        world, client = self.world, self.world.random.choice(self.clients)
        stands = client.connection is not None and client.connection.worker.host.stands_until > world.now
        if client.connection is None or world.chance(0.15 if stands else 0.02):
            client.connect(world.random.choice(self.places))
        for _ in range(world.random.choice([1, 1, 3])):
            client.publish(world.random.choice(TOPICS), world.random.choice([1, 2, 2]), world.chance(0.1))
