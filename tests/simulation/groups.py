"""Runs in which members of a shared group come and go: m0 stays in it, m1 starts clean and unsubscribes, m2's session expires when
it is away for long. What was acknowledged reaches one of them, at whichever host the message and the members are.

QoS 2 that was sent goes to nobody else [MQTT-4.8.2-5], so of these only that no message reaches the group twice.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.simulation.client import Client
from tests.simulation.scenario import Scenario

GROUPS = 11_000_000  # seeds from here on are such runs
TOPIC = "shared"
FILTER = f"$share/g/{TOPIC}"
EXPIRY_S = 2


class Member(Client):
    """In the group whenever it has a session."""

    is_strict = False

    def _on_connack(self, present: bool, sid: int) -> None:
        super()._on_connack(present, sid)
        self._born_ms[sid] = 0  # it gets what earlier sessions of others have left
        if not present:
            self.subscribe(FILTER)

    def _judge(self, present: bool, sid: int) -> None:
        """It begins sessions on both sides of a cut, too."""


class Groups(Scenario):
    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self._members = [Member(self.world, self.hosts, self.ledger, f"m{number}") for number in range(3)]
        for member in self._members:
            member.is_strict = False
        self._members[2].expiry_s = EXPIRY_S
        self._away_until: dict[str, float] = {}

    def _faults(self) -> None:
        world = self.world
        for member in self._members:
            member.connect(world.random.choice(self.hosts))
        world.run(500)
        if not all(FILTER in member.subscriptions for member in self._members):
            world.wrong.append("the group was not there before any fault")
        super()._faults()
        self.clients += self._members

    def _client_acts(self) -> None:
        world = self.world
        if world.chance(0.3):
            super()._client_acts()
        elif world.chance(0.4):
            self._member_acts(world.random.choice(self._members))
        else:
            for _ in range(world.random.choice([1, 2, 6])):
                world.random.choice(self.clients).publish(TOPIC, world.random.choice([1, 1, 2]), False)

    def _member_acts(self, member: Client) -> None:
        world, (_, restless, mortal) = self.world, self._members
        if self._away_until.get(member.cid, 0) > world.now:
            return
        if member.connection is None:
            member.connect(world.random.choice(self.places), clean=member is restless and world.chance(0.5))
        elif world.chance(0.4):
            member.leave(world.chance(0.3))
            away_ms = [500, 1800, 2300, 4000] if member is mortal else [0, 200, 800]
            self._away_until[member.cid] = world.now + world.random.choice(away_ms)
        elif member is restless and world.chance(0.3):
            member.connect(world.random.choice(self.places), clean=True)
        elif member is restless and world.chance(0.3):
            (member.unsubscribe if FILTER in member.subscriptions else member.subscribe)(FILTER)

    # -- the end ------------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        super()._check()
        found, ledger = self.world.wrong, self.ledger
        if found:
            return
        came = Counter(id for member in self._members for id in ledger.delivered[member.cid])
        for message in ledger.messages.values():
            if message.topic != TOPIC:
                continue
            if message.qos == 1 and message.acked_ms < float("inf") and not came[message.id]:
                found.append(f"{message.id} was acknowledged and reached no member")
            if message.qos == 2 and came[message.id] > 1 and not self.wild:
                found.append(f"{message.id} reached the group {came[message.id]} times")
        for host in self.hosts:
            assert host.keeper is not None
            assert host.worker is not None
            members = {sid for sid, filter in host.worker.subscriptions if filter == FILTER}
            online = {host.keeper.directory.sessions[member.cid].sid for member in self._members} & members
            if host.worker.present & members != online:
                found.append(f"{host} takes {host.worker.present & members} for online, there are {online}")
