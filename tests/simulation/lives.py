"""Runs in which sessions end: c0 stays, c1 starts clean now and then, c2's session expires when it is away for long; all
unsubscribe. In a "wild" run that happens on both sides of cuts: then what the client asked for last is what counts in the end.
"""

from __future__ import annotations

from pathlib import Path

from tests.simulation.client import Client
from tests.simulation.host import Host
from tests.simulation.scenario import TOPICS, Scenario

EXPIRY_S = 2
RETAINED = "retained"  # topic without subscribers
SPLIT_MS = 4000  # at least: more than an eviction takes
HOUSEKEEPING_MS = 5000  # until what is over is gone everywhere


class Lives(Scenario):
    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self._away_until: dict[str, float] = {}
        self.clients[2].expiry_s = EXPIRY_S
        for client in self.clients[1:]:
            client.is_strict = not self.wild

    def _faults(self) -> None:
        if self.wild:
            self.ledger.all_know = False
            self.ledger.owes_no_more(self.clients[2].cid)  # it may expire on one side while it is connected on another
        super()._faults()

    def _client_acts(self) -> None:
        world, client = self.world, self.world.random.choice(self.clients)
        if self.wild and self.is_healthy:
            self._learn(self.clients[:2])
        if self._away_until.get(client.cid, 0) > world.now:
            return
        if client is self.clients[1] and world.chance(0.15):
            client.connect(world.random.choice(self.places), clean=True)
        elif client is self.clients[2] and world.chance(0.08):
            client.leave(world.chance(0.3))
            self._away_until[client.cid] = world.now + world.random.choice([500, 1800, 2300, 4000])
        elif client.connection is None or world.chance(0.12):
            client.connect(world.random.choice(self.places))
        elif world.chance(0.3):
            self._subscribes(client)
        elif world.chance(0.15):
            client.publish(RETAINED, world.random.choice([1, 2]), True, deletes=world.chance(0.4))
        else:
            for _ in range(world.random.choice([1, 1, 3])):
                client.publish(world.random.choice(TOPICS), world.random.choice([1, 2]), world.chance(0.1))

    def _fault(self) -> None:
        if self.wild and self.world.chance(0.3):
            self._split(self.world.random.choice(self.hosts))
        else:
            super()._fault()

    def _split(self, host: Host) -> None:
        """For long enough that both sides serve."""
        self.world.say(f"{host} is cut off")
        until_ms = SPLIT_MS + self.world.random.uniform(0, 3000)
        for pair in host.pairs.values():
            pair.cut()
            self.world.at(until_ms, pair.heal)

    def _subscribes(self, client: Client) -> None:
        topic = self.world.random.choice(TOPICS)
        if topic not in client.subscriptions:
            client.subscribe(topic)
        elif self.world.chance(0.3):
            client.unsubscribe(topic)

    def _learn(self, clients: list[Client]) -> None:
        """All hosts are in sync: they all know what has been acknowledged."""
        for client in clients:
            for topic, sid in client.subscriptions.items():
                if self._session(client) == sid:
                    self.ledger.subscribed.setdefault(topic, set()).add(client.cid)

    def _session(self, client: Client) -> int:
        keeper = self.hosts[0].keeper
        record = None if keeper is None else keeper.directory.sessions.get(client.cid)
        return 0 if record is None else record.sid

    @property
    def _clocks_agreed(self) -> bool:
        """Else of two births that which is later by its host's clock counts."""
        return not any("clocks_apart" in each for each in self.world.trace)

    # -- the end ------------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        self._learn(self.clients)
        for client in self.clients:
            for topic in TOPICS:
                client.publish(topic, 2, False)
        self._heal()
        super()._check()
        found = self.world.wrong
        if found:
            return
        for client in self.clients:
            sid = self._session(client)
            if sid in client.over and self._clocks_agreed:
                found.append(f"{client.cid} has the session {sid:x} again, after which it had others")
            missing = [
                topic for topic, its in client.subscriptions.items() if its == sid and (sid, topic) not in self._routes
            ]
            found += [f"{client.cid} is not subscribed to {topic}" for topic in missing]
        self._expire()

    @property
    def _routes(self) -> set[tuple[int, str]]:
        worker = self.hosts[0].worker
        assert worker is not None
        return set(worker.subscriptions)

    def _expire(self) -> None:
        """Who stays away leaves nothing behind."""
        client, found = self.clients[2], self.world.wrong
        sid = self._session(client)
        client.leave(False)
        self.world.run(client.expiry_s * 1000 + HOUSEKEEPING_MS)
        for host in self.hosts:
            if host.keeper is not None and client.cid in host.keeper.directory.sessions:
                found.append(f"{host} has {client.cid}'s session still")
            if host.worker is not None and any(each == sid for each, _ in host.worker.subscriptions):
                found.append(f"{host} routes to {client.cid}'s session still")
        found += self._differences()
        found += self._unrouted()
        found += self._digests()
