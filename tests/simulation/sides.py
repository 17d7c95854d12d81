"""Runs of three and five hosts that are cut apart into many sides, each of which serves, for long and more than once; clients with
QoS 2 messages under way move from side to side. Nothing that was acknowledged is lost, and no client keeps a packet id for ever.
"""

from __future__ import annotations

from pathlib import Path

from tests.simulation.scenario import TOPICS, Scenario

SIDES = 10_000_000  # seeds from here on are such runs; of two the second one has five hosts
EVICTED_MS = 3500
ROUND_MS = 6000
MOVES = 0.15


class Sides(Scenario):
    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self.wild = True

    @staticmethod
    def count_of(seed: int) -> int:
        return 3 + 2 * (seed % 2)

    def _faults(self) -> None:
        world = self.world
        for _ in range(world.random.choice([1, 1, 2])):
            kept = world.random.choice([0, 0, 0.3, 0.7])  # pairs that go on
            world.say("cut apart")
            for pair in self.pairs:
                if not world.chance(kept):
                    pair.cut()
                    world.at(EVICTED_MS + world.random.uniform(0, 1.5 * ROUND_MS), pair.heal)
            if world.chance(0.5):
                world.run(EVICTED_MS)
            super()._faults()

    def _fault(self) -> None:
        if self.world.chance(0.1):
            super()._fault()

    def _client_acts(self) -> None:
        world, client = self.world, self.world.random.choice(self.clients)
        if client.connection is None or world.chance(MOVES):
            client.connect(world.random.choice(self.places))
        for _ in range(world.random.choice([1, 1, 3])):
            client.publish(world.random.choice(TOPICS), world.random.choice([1, 2, 2]), False)
