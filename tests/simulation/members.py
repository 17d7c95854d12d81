"""Simulated hosts whose cluster changes. The table is mesh/membership.py; ours is what the interconnect process does with it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mesh.hlc import Clock
from mesh.membership import Member, Membership
from node import counters
from node.admin.link import LinkError
from node.sessions.outbox import REQUEST
from storage.layout import store_path
from storage.store import remove_store
from tests.simulation.host import Host, Interconnect, Pipe, decode, encode
from tests.simulation.world import Pair, World

LEAVE_MS, ANSWER_MS = 5000, 3000


class MemberInterconnect(Interconnect):
    def __init__(self, host: MemberHost) -> None:
        super().__init__(host)
        self._me = host
        self.table = Membership(bytes(16), "simulated")
        self.clock = Clock(host.node_id)
        self.unaware: set[bytes] = set()

    @property
    def is_member(self) -> bool:
        return self._me.node_id in {each.node_id for each in self.table.active()}

    def others(self) -> set[bytes]:
        return {each.node_id for each in self.table.active()} - {self._me.node_id} if self.is_member else set()

    def members(self) -> dict[str, Any]:
        gone = [each.node_id for each in self.table.members.values() if each.state == "left"]
        return {
            "members": sorted(self.others()),
            "left": [each for each in gone if each != self._me.node_id],
            "cluster": bytes(16),
        }

    def member(self, host: Host) -> Member:
        stamp = self.clock.now(int(self._me.world.now))
        return Member(host.node_id, str(host), "127.0.0.1:7001", str(host.index) * 40, "active", stamp)

    def keep(self, table: Membership) -> None:
        """From now on this is the table. Who is no member any more has no link."""
        before, self.table = self.others(), table
        self.tell("members", members=sorted(self.others()))
        for node_id, pair in self._me.pairs.items():
            side = pair.sides[self._me.index]
            if side.is_up and side.wire is not None:
                side.wire.send(table)
            if node_id in self.others() - before:
                pair.break_channel(True)  # if it is not there within 3 s, it is evicted
                pair.open_soon()
            elif node_id in before - self.others() and self.is_member:
                pair.ends(side)  # type: ignore[attr-defined]

    def from_peer(self, other: Host, body: Any) -> None:
        if isinstance(body, bytes):
            super().from_peer(other, body)
            return
        for member in body.members.values():
            self.clock.observe(member.stamp, int(self._me.world.now))
        merged = self.table.merge(body)
        if merged != self.table:
            self.keep(merged)

    def leave(self) -> None:
        """Returns when the others know it, or have evicted us."""
        self.unaware = self.others()
        world, stamp = self._me.world, self.clock.now(int(self._me.world.now))
        self.keep(self.table.without(self._me.node_id, stamp))
        until = world.now + LEAVE_MS
        while world.now < until and self.runs and self._are_there(self.unaware):
            world.run(10)
        for side in [pair.sides[self._me.index] for pair in self._me.pairs.values()]:
            if side.is_up:
                self._me.pairs[side.other.node_id].break_channel(True)
                side.down(True)

    def _are_there(self, node_ids: set[bytes]) -> bool:
        return any(other.interconnect.runs for other in self._me.others if other.node_id in node_ids)

    def remove(self, name: str) -> None:
        stamp = self.clock.now(int(self._me.world.now))
        self.keep(self.table.without(self.table.find(name).node_id, stamp))


class MemberPair(Pair):
    """Between hosts of which each has the other in its table."""

    @property
    def is_allowed(self) -> bool:
        hosts = [side.host for side in self.sides.values()]
        return all(other.node_id in host.interconnect.others() for host, other in (hosts, hosts[::-1]))  # type: ignore[attr-defined]

    def _open(self) -> None:
        epoch = self._epoch
        if self.is_allowed:
            super()._open()
        for side in self.sides.values() if epoch != self._epoch else ():
            if side.wire is not None:
                side.wire.send(side.host.interconnect.table)  # type: ignore[attr-defined]

    def _is_over(self, side: Any) -> bool:
        """Does its host know that the other one is no member?"""
        interconnect = side.host.interconnect
        return bool(interconnect.is_member and side.other.node_id not in interconnect.others())

    def _lost(self, side: Any, epoch: int) -> None:
        if not self._is_over(side):
            super()._lost(side, epoch)

    def _evict(self, side: Any, epoch: int) -> None:
        if not self._is_over(side):
            super()._evict(side, epoch)

    def ends(self, side: Any) -> None:
        """The host of this side knows that the other one is no member; that one is told so (frame 5), if it can be."""
        other, is_told = self.sides[side.other.index], self.is_open_now()
        side.is_up, side.evicted = False, False
        side.host.interconnect.tell("peer_left", node_id=side.other.node_id)
        if is_told:
            self._world.at(3, lambda: self._told(other))
        self.break_channel(True)
        if side.wire is not None:
            side.wire._ends = self._world.now + 3

    def _told(self, side: Any) -> None:
        if side.is_up and not self.is_allowed:
            side.host.interconnect.unaware.discard(side.other.node_id)
            side.down(True)


class MemberHost(Host):
    interconnect: MemberInterconnect

    def __init__(self, world: World, index: int, folder: Path, strict: bool = False) -> None:
        super().__init__(world, index, folder, strict)
        self.interconnect = MemberInterconnect(self)
        self.admin = Admin(self)
        self.lacks = False  # it has joined anew, and has not all yet

    @property
    def has_left(self) -> bool:
        """As Interconnect.has_left: it serves nobody, and lets nobody into the cluster."""
        return not self.interconnect.is_member or self.is_refused

    @property
    def is_refused(self) -> bool:
        """As Interconnect._is_refused: removed while it was away. Who removed it is not refused, though neither has a link."""
        is_up = any(pair.sides[self.index].is_up for pair in self.pairs.values())
        return not is_up and any(self._is_refused_by(other) for other in self.others)

    def _is_refused_by(self, other: Any) -> bool:
        """Does it dial that host, which is there and does not know it?"""
        is_dialled = other.node_id in self.interconnect.others() and not self.pairs[other.node_id].is_cut
        there = other.interconnect
        return is_dialled and there.runs and there.is_member and self.node_id not in there.others()

    @property
    def serves(self) -> bool:
        self.lacks = self.lacks and (self.keeper is None or not self.keeper.replicas.has_all())
        return self.worker is not None and not self.has_left and not self.admin.draining and not self.lacks

    def ended(self, is_over: bool) -> None:
        if is_over:
            self.world.say(f"{self} begins a new store")
            remove_store(store_path(self.config.node.data_dir))
            if self.worker is not None:
                self.worker.die()
                self.worker = self._new_worker()

    def send_away(self) -> None:
        """All clients that are here."""
        for connection in list(self.worker.clients.values()) if self.worker is not None else ():
            connection.close()


def form_cluster(hosts: list[MemberHost]) -> None:
    """They have all of them as members."""
    first = hosts[0].interconnect
    table = first.table
    for host in hosts:
        table = table.with_member(first.member(host))
    for host in hosts:
        host.interconnect.table = table


class Admin:
    """What node/admin/drain.py and removal.py know of a host."""

    def __init__(self, host: MemberHost) -> None:
        self._host = host
        self.config, self.workers, self.draining = host.config, 1, False
        self._number = 0
        self._answers: dict[int, tuple[bool, Any]] = {}
        self.counters = SimpleNamespace(slot=self._slot)

    def _slot(self, _: int) -> dict[int, int]:
        worker = self._host.worker
        return {counters.INDEX["clients_connected"]: 0 if worker is None else len(worker.clients)}

    @property
    def has_left(self) -> bool:
        return not self._host.interconnect.is_member

    def ask_keeper(self, method: str, **arguments: Any) -> Any:
        host, keeper = self._host, self._host.keeper
        if keeper is None:
            raise LinkError("there is no keeper")
        self._number += 1
        number = self._number
        pipe = Pipe(host, lambda frame: self._answered(frame[1]))
        keeper.attach(pipe)
        host.take(pipe, REQUEST, encode([number, method, arguments]))
        until = host.world.now + ANSWER_MS
        while number not in self._answers:
            host.world.run(1)
            if host.keeper is not keeper or host.world.now > until:
                raise LinkError("the keeper does not answer")
        host.link_lost(pipe)
        ok, result = self._answers.pop(number)
        if not ok:
            raise LinkError(str(result))
        return result

    def _answered(self, body: bytes) -> None:
        number, ok, result = decode(body)
        self._answers[number] = ok, result

    def ask_interconnect(self, method: str, **arguments: Any) -> Any:
        interconnect = self._host.interconnect
        if not interconnect.runs:
            raise LinkError("there is no interconnect process")
        if method in ("leave", "remove"):
            getattr(interconnect, method)(**arguments)
        return {"nodes": [
            {"name": each.name, "node_id": each.node_id.hex(), "this_host": each.node_id == self._host.node_id, "state": "up"}
            for each in interconnect.table.active()
        ]}  # fmt: skip

    def ask_worker(self, index: int, method: str, **arguments: Any) -> int:
        self._host.send_away()
        return 0

    def read(self, take: Any) -> list[Any]:
        return []
