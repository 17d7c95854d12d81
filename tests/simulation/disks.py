"""Runs in which a host comes back with an earlier state of its disk, or without it, while the others are in sync: nothing is lost.

Of four seeds the last two have a host that joins with sessions and messages of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.simulation.client import Client
from tests.simulation.host import Host
from tests.simulation.scenario import Scenario

OWN = "own"  # topic of who was at the host that joins


class Disks(Scenario):
    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self.wild = False
        self.world.loses_disks = True
        self._copies: dict[Host, Path] = {}  # of the store as it was
        self._newcomer: Host | None = None
        if seed // 2 % 2:
            self._newcomer = Host(self.world, len(self.hosts), folder)
        world, number = self.world, len(self.clients)
        self._its = [Client(world, [], self.ledger, f"c{number + each}") for each in range(2)]
        self.part_bytes = 100

    def _faults(self) -> None:
        if self._newcomer is not None:
            self._live_alone(self._newcomer)
            self.world.at(self.world.random.uniform(100, 3000), lambda: self._come(self._newcomer))
        super()._faults()

    def _live_alone(self, host: Host) -> None:
        world, (subscriber, publisher) = self.world, self._its
        host.crashed = lambda point: self._crashed(host, point)
        host.interconnect.cluster = host.node_id
        host.start()
        host.interconnect.tell("members", members=[])
        world.run(7000)  # nobody else is there
        for client in self._its:
            client.connect(host)
        world.run(100)
        subscriber.subscribe(OWN)
        world.run(100)
        subscriber.leave(False)
        for number in range(world.random.randrange(10)):
            publisher.publish(OWN, 1 + number % 2, world.chance(0.3))
            world.run(50)
        world.run(100)
        publisher.leave(False)

    def _come(self, host: Host | None) -> None:
        if host is not None:
            self.joining = [host]
            self._join(host)

    def _heal(self) -> None:
        if self._newcomer is not None:
            self.world.run(8000)
            self.clients += [client for client in self._its if client not in self.clients]
        super()._heal()

    def _fault(self) -> None:
        world = self.world
        host = world.random.choice(self.hosts)
        if world.chance(0.4):
            self._lose_disk(host)
        else:
            super()._fault()

    def _client_acts(self) -> None:
        if self._newcomer in self.hosts and self._its[0] not in self.clients and self.is_healthy:
            self.clients += self._its
        super()._client_acts()
        if self.world.chance(0.1) and self.is_healthy:
            self._copy(self.world.random.choice(self.hosts))

    def _copy(self, host: Host) -> None:
        assert host.keeper is not None
        copy = Path(host.config.node.data_dir) / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        host.keeper.store.environment.copy(str(copy))
        self._copies[host] = copy
        self.world.say(f"copy of {host}")

    def _lose_disk(self, host: Host) -> None:
        world, data_dir = self.world, Path(host.config.node.data_dir)
        if host.keeper is None:
            return
        host.stop("with its disk")
        shutil.rmtree(data_dir / "store")
        copy = self._copies.pop(host, None)
        if copy is not None:
            world.say(f"{host} gets an old copy")
            copy.rename(data_dir / "store")
        if copy is None or world.chance(0.5):
            (data_dir / "store.reached").unlink(missing_ok=True)
        world.at(world.random.choice([300, 1500, 5000]), lambda: self._start(host))
