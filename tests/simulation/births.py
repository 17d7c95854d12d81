"""Runs in which a client begins sessions on several sides of a cut. Another one publishes to it, always at the host where it was
connected last: all that is acknowledged is due to it, whichever of its sessions took it.
"""

from __future__ import annotations

from tests.simulation.client import Client
from tests.simulation.host import Host
from tests.simulation.scenario import FAULTS_MS, Scenario

BIRTHS = 4_000_000  # seeds from here on are such runs
EVICTED_MS = 3800
TOPIC = "own"


class Twin(Client):
    """Its sessions are one in the end."""

    host: Host | None = None  # where it has subscribed last

    def _on_connack(self, present: bool, sid: int) -> None:
        self._world.say(f"{self.cid} is connected, session {sid:x}")
        if not present:
            self._received.clear()
        self._born_ms.setdefault(sid, 0)
        self._had_session = sid
        self.is_connected = True

    def _on_suback(self, topic: str) -> None:
        super()._on_suback(topic)
        self._ledger.subscribed.setdefault(topic, set()).add(self.cid)
        assert self.connection is not None
        self.host = self.connection.worker.host

    def acts(self, places: list[Host]) -> None:
        if self.connection is None:
            if self._world.chance(0.2):
                self.connect(self._world.random.choice(places))
        elif self.is_connected and self.subscriptions.get(TOPIC) != self._had_session:
            self.subscribe(TOPIC)
        elif self.is_connected and self._world.chance(0.3):
            self.leave(False)

    @property
    def births(self) -> int:
        return len(self._born_ms)


class Voice(Client):
    def _judge(self, present: bool, sid: int) -> None:
        """It begins sessions on both sides, too."""

    def speak(self, twin: Twin) -> None:
        if twin.host is None:
            return
        if self.connection is None or self.connection.worker.host is not twin.host:
            self._open.clear()  # nobody waits for it at the other host
            self.connect(twin.host)
        else:
            self.publish(TOPIC, self._world.random.choice([1, 2]), False)


class Births(Scenario):
    def _faults(self) -> None:
        world, self.wild = self.world, True
        self.twin = Twin(world, self.hosts, self.ledger, "twin")
        self.voice = Voice(world, self.hosts, self.ledger, "voice")
        self.twin.is_strict = self.voice.is_strict = False
        self.ledger.all_know = False
        for pair in self.pairs:
            if world.chance(0.8):
                pair.cut()
                world.at(world.random.uniform(EVICTED_MS, EVICTED_MS + FAULTS_MS), pair.heal)
        world.run(EVICTED_MS)
        super()._faults()
        self.clients += [self.twin, self.voice]

    def _check(self) -> None:
        """Each side's order is kept, that of the sides among each other is not; nor where three hosts meet one after the other."""
        super()._check()
        if len(self.hosts) == 2:
            self.world.wrong += self.ledger.disordered(self.voice.cid)

    def _fault(self) -> None:
        if self.world.chance(0.2):
            super()._fault()

    def _client_acts(self) -> None:
        world = self.world
        if world.chance(0.3):
            self.twin.acts(self.places)
        elif world.chance(0.6):
            self.voice.speak(self.twin)
        else:
            super()._client_acts()
