"""One run: hosts and clients, faults by a seed, then everything heals, and what must hold is checked.

"single": the next fault comes when the hosts are in sync again; then nothing is lost, twice or out of order (guarantees.md,
docs/guarantees.md). "wild": any faults at any time, cuts in which both sides serve; then nothing is lost, and all stores
become equal.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from node.keeper import replicas, sources
from storage.layout import HEADER_BYTES, REPLICATED
from storage.writer import Writer
from tests.simulation.client import Client, Ledger
from tests.simulation.host import CRASH_POINTS, Host, decode
from tests.simulation.worker import payload_of
from tests.simulation.world import Pair, World

FURTHER = 100_000  # of eight seeds from here on four run strict hosts, four run five hosts
DISKS = 3_000_000  # from here on disks are lost or brought back from an earlier time: disks.py
LIVES = 2_000_000  # from here on sessions end: lives.py
JOINING = 1_000_000  # from here on one or two hosts join two or three others, which may die meanwhile
TOPICS = ("a", "b")
FAULTS_MS = 6000
STEP_MS = 60
HEAL_MS = 40_000


class Scenario:
    host_kind, pair_kind = Host, Pair

    def __init__(self, seed: int, folder: Path) -> None:
        self.world = world = World(seed)
        self.wild = seed % 2 == 1
        strict = FURTHER <= seed < JOINING and seed // 4 % 2 == 0
        count = self.count_of(seed)
        self.joining: list[Host] = []
        self.part_bytes = replicas.PART_BYTES
        if JOINING <= seed < LIVES:
            self.part_bytes = 100
            self.joining = [self.host_kind(world, count + number, folder) for number in range(1 + seed // 4 % 2)]
        self.hosts = [self.host_kind(world, index, folder, strict) for index in range(count)]
        self.pairs = [self.pair_kind(world, a, b) for a, b in itertools.combinations(self.hosts, 2)]
        self.ledger = Ledger()
        self.clients = [Client(world, self.hosts, self.ledger, f"c{number}") for number in range(3)]
        self._kills: dict[int, str] = {}  # index of a host -> what dies
        self.two_away = False
        self.kept_commits = world.random.choice([sources.KEPT_COMMITS, sources.KEPT_COMMITS, 10])

    @staticmethod
    def count_of(seed: int) -> int:
        """How many hosts."""
        return 5 if FURTHER <= seed < JOINING and seed // 4 % 2 else 2 + seed // 2 % 2

    def run(self) -> list[str]:
        """What went wrong."""
        world = self.world
        for host in self.hosts:
            host.crashed = lambda point, host=host: self._crashed(host, point)  # type: ignore[misc]
            host.start()
        world.run(800)
        for client in self.clients:
            client.connect(world.random.choice(self.hosts))
        world.run(300)
        for client in self.clients:
            for topic in TOPICS:
                client.subscribe(topic)
        world.run(500)
        if not self.is_healthy or sum(map(len, self.ledger.subscribed.values())) != len(TOPICS) * len(self.clients):
            return ["not ready before any fault"]
        for host in self.joining:
            world.at(world.random.choice([1000, world.random.uniform(500, 4000)]), lambda host=host: self._join(host))  # type: ignore[misc]
        self._faults()
        self._heal()
        self._check()
        return world.wrong

    def _join(self, host: Host) -> None:
        """Perhaps one of the others dies while it is sending all it has."""
        world = self.world
        others = [*self.hosts]
        host.crashed = lambda point: self._crashed(host, point)
        self.pairs += [Pair(world, other, host) for other in others]
        self.hosts.append(host)
        host.interconnect.cluster = others[0].interconnect.cluster
        for other in others:
            other.interconnect.tell("members", members=list(other.pairs))
        if host.interconnect.runs:
            self._meet(host)
        else:
            host.start()
        if self.wild or world.chance(0.5):
            victim = world.random.choice(others)
            world.at(world.random.uniform(0, 400), lambda: self._kill(victim))

    def _meet(self, host: Host) -> None:
        """It has been there, alone."""
        host.interconnect.tell("members", members=list(host.pairs))
        host.interconnect.tell("belongs_to", cluster=host.interconnect.cluster, is_alone=False)
        for pair in host.pairs.values():
            pair.open_soon()

    def _kill(self, host: Host) -> None:
        if host.keeper is not None and host.keeper.crash_at is None:
            self._kills[host.index] = "crash"
            self.two_away |= any(other.keeper is None for other in self.hosts)
            host.keeper.crash_at = "after_commit"
            self._crash_idle(host)

    @property
    def places(self) -> list[Host]:
        """Where clients go: to a host that joins once it has what the others have."""
        self.joining = [host for host in self.joining if host.keeper is None or not host.keeper.replicas.has_all()]
        return [host for host in self.hosts if host not in self.joining]

    # -- faults -----------------------------------------------------------------------------------------------------------

    def _faults(self) -> None:
        world, until = self.world, self.world.now + FAULTS_MS
        while world.now < until:
            self._client_acts()
            if world.chance(0.08) and (self.wild or self.is_healthy):
                self._fault()
            world.run(world.random.uniform(0, 2 * STEP_MS))

    def _client_acts(self) -> None:
        world = self.world
        client = world.random.choice(self.clients)
        if client.connection is None or world.chance(0.06):
            client.connect(world.random.choice(self.places))
        elif world.chance(0.02):
            client.leave(world.chance(0.5))
        elif world.chance(0.04) and not self.wild:
            client.subscribe("late")
        else:
            topics = TOPICS if self.wild else (*TOPICS, "late")
            for _ in range(world.random.choice([1, 1, 3])):
                client.publish(world.random.choice(topics), world.random.choice([1, 2]), world.chance(0.1))

    def _fault(self) -> None:
        world = self.world
        kinds = ["crash", "crash", "keeper", "break", "stall"] + ["cut"] * 3 * self.wild
        kind = world.random.choice(kinds)
        host, pair = world.random.choice(self.hosts), world.random.choice(self.pairs)
        if kind in ("crash", "keeper"):
            if host.keeper is not None:
                host.keeper.crash_at = world.random.choice(CRASH_POINTS)
                self._kills[host.index] = kind
                world.at(200, lambda: self._crash_idle(host))
        elif kind == "break":
            world.say("a channel breaks")
            pair.break_channel(False)
            pair.open_soon()
        elif kind == "stall":
            pair.stall()
        else:
            world.say("a cut")
            pair.cut()
            world.at(world.random.choice([500, world.random.uniform(2700, 3300), 5000]), pair.heal)

    def _crash_idle(self, host: Host) -> None:
        if host.keeper is not None and host.keeper.crash_at is not None:
            self._crashed(host, "idle")

    def _crashed(self, host: Host, point: str) -> None:
        world = self.world
        assert host.keeper is not None
        host.keeper.crash_at = None
        if point == "after_report":  # with a part of what it said under way
            world.at(
                world.random.uniform(0, 3), lambda: self._crashed(host, "later") if host.keeper is not None else None
            )
        elif self._kills[host.index] == "keeper":
            world.say(f"keeper of {host} dies {point}")
            host.stop_keeper()
            world.at(world.random.uniform(50, 600), host.start_keeper_again)
        else:
            host.stop(point)
            world.at(world.random.choice([300, 1500, 5000]), lambda: self._start(host))

    def _start(self, host: Host) -> None:
        if not host.interconnect.runs:
            host.start()

    # -- the end ------------------------------------------------------------------------------------------------------------

    @property
    def is_healthy(self) -> bool:
        return all(pair.is_open_now() for pair in self.pairs) and all(
            host.keeper is not None
            and host.keeper.crash_at is None
            and host.keeper.replicas.replication.in_sync == len(self.hosts) - 1
            and not host.keeper.held
            for host in self.hosts
        )

    def _heal(self) -> None:
        world = self.world
        world.say("everything heals")
        for host in self.hosts:
            if host.keeper is not None:
                host.keeper.crash_at = None
        world.run(6000)
        for pair in self.pairs:
            pair.heal()
        until = world.now + HEAL_MS
        while world.now < until and not self._is_quiet():
            for client in self.clients:
                if client.connection is None and self.places:
                    client.connect(world.random.choice(self.places))
            world.run(500)

    def _is_quiet(self) -> bool:
        return (
            self.is_healthy
            and all(client.is_done for client in self.clients)
            and not any(self.contents(host)[name] for host in self.hosts for name in ("queue", "inbox"))
        )

    def contents(self, host: Host) -> dict[str, dict[bytes, bytes]]:
        assert host.keeper is not None
        store = host.keeper.store
        with store.environment.begin() as transaction:
            return {name: dict(transaction.cursor(db=store.databases[name])) for name in REPLICATED}

    def _check(self) -> None:
        world = self.world
        found = world.wrong
        if not self.is_healthy:
            found.append("the hosts are not in sync after the faults")
            return
        found += [f"{client.cid} still waits" for client in self.clients if not client.is_done]
        found += [f"{client.cid} holds packet ids for ever: {client.held}" for client in self.clients if client.held]
        found += self.ledger.lost()
        if not self.wild:
            found += self.ledger.twice() + self.ledger.disordered()
        retained = self.contents(self.hosts[0])["retained"]
        messages = {topic.decode(): payload_of(value[HEADER_BYTES:]) for topic, value in retained.items()}
        found += self.ledger.stale(messages, self.wild)
        found += self._differences()
        found += self._unrouted()
        found += self._digests()
        found += [each for host in self.hosts if host.keeper is not None for each in host.keeper.watch.left()]
        for client in self.clients:
            owners = [str(host) for host in self.hosts if self._delivers(host, client.cid)]
            at = [
                str(host)
                for host in self.hosts
                if host.keeper is not None and client.cid in host.keeper.directory.owners
            ]
            if len(owners) != 1 or owners != at:
                found.append(f"{client.cid}: its session is owned by {owners}, it is connected at {at}")

    def _differences(self) -> list[str]:
        """Between the stores, and what is left in them."""
        found = []
        for host in self.hosts:
            self._sweep(host)
        contents = [self.contents(host) for host in self.hosts]
        for name in REPLICATED:
            # With who was away a flow comes back that only they knew, and its client has ended: until that id is used again
            if name in ("queue", "inbox", "bodies") or (name == "packet_ids" and not (self.wild or self.two_away)):
                found += [
                    f"{name} of {host} keeps {len(each[name])}"
                    for host, each in zip(self.hosts, contents, strict=True)
                    if each[name]
                ]
            keys = sorted(
                {
                    key
                    for each in contents
                    for key in each[name]
                    if any(each[name].get(key) != other[name].get(key) for other in contents)
                }
            )
            found += [f"{name} differ at {key.hex()}: {[each[name].get(key) for each in contents]}" for key in keys[:3]]
        return found

    def _unrouted(self) -> list[str]:
        """What a worker routes by are the stored subscriptions."""
        found = []
        for host in self.hosts:
            if host.keeper is None or host.worker is None:
                continue
            sessions, subs = host.keeper.directory.by_sid, self.contents(host)["subs"]
            stored = {(int.from_bytes(key[:8], "big"), decode(value[HEADER_BYTES:])[0]) for key, value in subs.items()}
            found += [
                f"{host} holds {sid:x}'s {filter}, without its session" for sid, filter in stored if sid not in sessions
            ]
            different = stored ^ host.worker.subscriptions
            found += [f"{host} routes not as it has stored: {sid:x} {filter}" for sid, filter in sorted(different)]
        return found

    def _digests(self) -> list[str]:
        """Those kept up with each change are those of what is there, and the same on all hosts."""
        keepers = [host.keeper for host in self.hosts if host.keeper is not None]
        kept = [keeper.writer.digests() for keeper in keepers]
        stores = [(keeper.store.environment, keeper.store.databases, keeper.config.limits) for keeper in keepers]
        there = [Writer(*store).digests() for store in stores]
        is_same = kept == there and all(each == kept[0] for each in kept)
        return [] if is_same else [f"digests {kept}, of what is there {there}"]

    def _sweep(self, host: Host) -> None:
        assert host.keeper is not None
        writer = host.keeper.writer
        writer.begin()
        writer.sweep()
        writer.sweep()
        writer.commit()

    def _delivers(self, host: Host, cid: str) -> bool:
        assert host.keeper is not None
        directory = host.keeper.directory
        record = directory.sessions.get(cid)
        return record is not None and directory.elsewhere.owns(record)

    def close(self) -> None:
        for host in self.hosts:
            if host.keeper is not None:
                host.keeper.close()
