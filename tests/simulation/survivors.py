"""Runs in which a session expires on one side of a cut, where its client was before, and goes on on the other one: it gets all that
was acknowledged where its client is, whichever hosts have heard of the end.
"""

from __future__ import annotations

from tests.simulation.client import Client
from tests.simulation.host import Host
from tests.simulation.scenario import Scenario

SURVIVORS = 8_000_000  # seeds from here on are such runs
EXPIRY_S = 4
EVICTED_MS = 3800
TOPIC = "own"


class Survivors(Scenario):
    def _faults(self) -> None:
        world = self.world
        self.wild, self.ledger.all_know = True, False
        survivor = Client(world, self.hosts, self.ledger, "survivor")
        voice = Client(world, self.hosts, self.ledger, "voice")
        survivor.expiry_s, survivor.is_strict, voice.is_strict = EXPIRY_S, False, False
        first, second, *_ = world.random.sample(self.hosts, len(self.hosts))
        survivor.connect(first)
        voice.connect(second)
        world.run(200)
        survivor.subscribe(TOPIC)
        world.run(200)
        self.ledger.subscribed[TOPIC] = {survivor.cid}
        survivor.leave(False)
        for _ in range(20):  # all hosts know of these
            voice.publish(TOPIC, world.random.choice([1, 2]), False)
            world.run(20)
        for pair in self.pairs:
            hosts = {side.host for side in pair.sides.values()}
            if hosts == {first, second} or world.chance(0.5):
                pair.cut()
        world.run(EVICTED_MS - 500)
        self._goes_on(survivor, voice, second)
        super()._faults()
        self.clients += [survivor, voice]

    def _goes_on(self, survivor: Client, voice: Client, host: Host) -> None:
        """It is there for moments only, so that most stays in its queue, and is never away for as long as its session lives."""
        world, until = self.world, self.world.now + 3 * EXPIRY_S * 1000
        while world.now < until:
            survivor.connect(host)
            while not survivor.is_connected and survivor.connection is not None:
                world.run(1)
            if not survivor.is_connected or survivor.subscriptions.get(TOPIC) != survivor._had_session:
                world.say("the session was over")
                self.ledger.owes_no_more(survivor.cid)
                return
            voice.publish(TOPIC, world.random.choice([1, 2]), False)
            world.run(world.random.uniform(0, 4))
            survivor.leave(False)
            world.run(world.random.uniform(0, EXPIRY_S * 900))
            if world.chance(0.1):
                break
        for pair in self.pairs:
            world.at(world.random.uniform(0, 200), pair.heal)
        world.run(world.random.uniform(0, 1000))
        survivor.connect(world.random.choice(self.hosts))
        world.run(3000)
        for _ in range(5):
            voice.publish(TOPIC, world.random.choice([1, 2]), False)
            world.run(100)

    def _fault(self) -> None:
        """None but the cut."""
