"""Runs in which clients with wills come, go and lose their connections. In the end some stay away: their wills are due, and no
others.

A "wild" run may publish more: on each side of a cut, or where a host could not tell whose connection had ended how.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node.sessions.elsewhere import WILL_GRACE_MS
from tests.simulation.client import Client, Message
from tests.simulation.host import Host
from tests.simulation.scenario import Scenario
from tests.simulation.worker import message

WILLS = 7_000_000  # seeds from here on are such runs
TOPIC = "wills"
DELAYS_S = (0, 0, 1, 3)
EARLY_MS = 300  # a will may come so much before its time
SETTLED_MS = 8000  # until a due will has come, also when its host has just started anew
DIED, LEFT = "lost its connection", "has disconnected"


class Mourned(Client):
    """Each of its connections has a will of its own."""

    id, ended, delay_s = "", "", 0  # the will of its last connection, how that ended
    restless = 0.3  # how likely it goes when it may

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.undue: set[str] = set()  # wills before whose time it was back
        self._due_ms: dict[str, float] = {}  # of earlier connections, at the earliest

    def connect(self, host: Host, clean: bool = False) -> None:
        if self.connection is not None:
            self.die()
        now_ms = self._world.now
        self.delay_s = self._world.random.choice(DELAYS_S)
        self._number += 1
        self.id, self.ended = f"{self.cid}-{self._number}", ""
        self._ledger.messages[self.id] = Message(self.id, self.cid, TOPIC, 2, False, self._number, set(), now_ms, False)
        self.will = {"delay_s": self.delay_s, "record": message(TOPIC, self.id, 2, False, 0), "cid": self.cid}
        super().connect(host, clean)

    def die(self) -> None:
        self.ended = DIED
        self.leave(False)

    def _disconnected(self) -> None:
        if self.connection is not None:
            self._due_ms[self.id] = self._world.now + self.delay_s * 1000 - EARLY_MS
        super()._disconnected()

    def _on_connack(self, present: bool, sid: int) -> None:
        super()._on_connack(present, sid)
        self.undue |= {id for id, due_ms in self._due_ms.items() if due_ms > self._world.now}

    def _judge(self, present: bool, sid: int) -> None:
        """It begins sessions on both sides of a cut, too."""

    def disconnect(self) -> None:
        connection = self.connection
        assert connection is not None
        self.ended = LEFT
        connection.back.send(("disconnect",))
        self._disconnected()
        connection.out.end()

    def _on_closed(self) -> None:
        self.ended = DIED
        super()._on_closed()

    def acts(self, places: list[Host]) -> None:
        world = self._world
        if self.connection is None:
            if world.chance(0.3):
                self.connect(world.random.choice(places))
        elif self.is_connected and world.chance(self.restless):
            (self.die if world.chance(0.6) else self.disconnect)()


class Wills(Scenario):
    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self._mourned = [Mourned(self.world, self.hosts, self.ledger, f"m{number}") for number in range(3)]
        for client in self._mourned:
            client.is_strict = False
        self._mourned[0].restless = 0.02

    def _faults(self) -> None:
        self.clients[0].subscribe(TOPIC)
        self.world.run(300)
        super()._faults()

    def _client_acts(self) -> None:
        super()._client_acts()
        if self.world.chance(0.4):
            self.world.random.choice(self._mourned).acts(self.places)

    def _check(self) -> None:
        super()._check()
        world, found = self.world, self.world.wrong
        if found:
            return
        for client in self._mourned:
            if client.connection is None:
                client.connect(world.random.choice(self.hosts))
        world.run(4500)
        found += [f"{client.cid} is not let in" for client in self._mourned if not client.is_connected]
        for client in self._mourned:
            world.random.choice([client.die, client.disconnect, lambda: None])()
        world.run(50)
        before = {each.id for each in self._mourned if not each.ended}
        self._host_dies(world.random.choice([None, *self.hosts]))
        world.run(WILL_GRACE_MS + SETTLED_MS)
        self._compare(before)

    def _host_dies(self, host: Host | None) -> None:
        """For good, and who is there finds another one, but for those with wills."""
        if host is None:
            return
        host.stop("for good")
        for client in self._mourned:
            if client.connection is not None and client.connection.worker.host is host:
                client.ended = DIED
        self.hosts = [each for each in self.hosts if each is not host]
        self.world.run(100)
        for client in self.clients:
            if client.connection is None:
                client.connect(self.hosts[0])

    def _compare(self, connected: set[str]) -> None:
        world, came = self.world, self.ledger.delivered["c0"]
        for client in self._mourned:
            count = came.count(client.id)
            if client.ended == DIED and not count:
                world.wrong.append(f"{client.cid} {client.ended}, its will {client.id} did not come")
            if client.ended != DIED and count:
                world.wrong.append(f"{client.cid} {client.ended or 'is connected'}, its will {client.id} came")
        if not self.wild:
            world.wrong += self.ledger.twice()
            undue = {id for client in self._mourned for id in client.undue}
            world.wrong += [
                f"the will {id} came, and its client was back before" for id in sorted(undue.intersection(came))
            ]
        for host in self.hosts:
            kept = len(self.contents(host)["wills"]) - sum(not client.ended for client in self._mourned)
            if kept:
                world.wrong.append(f"{host} keeps {kept} wills too many")
