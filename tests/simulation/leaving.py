"""Runs in which hosts leave, are removed when they are dead, or while they live on another side of a cut, and come back: with their
old disk, or after a leave with a new store. node/admin/drain.py and removal.py are the real ones.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from falcon import HTTPNotFound

from mesh.membership import MembershipError
from node.admin import removal
from node.admin.drain import STEP_S, Drain, Order
from node.admin.link import LinkError
from tests.simulation.host import Host
from tests.simulation.members import MemberHost, MemberPair, form_cluster
from tests.simulation.scenario import Scenario

LEAVING = 6_000_000  # seeds from here on are such runs
TIMEOUT_MS, LOOK_MS = 6000, 500
SOON_MS = 4000  # more than it takes until one that is left takes what the host had (node/sessions/handover.py)
SILENT = SimpleNamespace(info=lambda *_, **__: None, warning=lambda *_, **__: None)


class Leaving(Scenario):
    host_kind, pair_kind = MemberHost, MemberPair
    hosts: list[MemberHost]  # type: ignore[assignment]

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        form_cluster(self.hosts)
        self._busy: MemberHost | None = None  # it is on its way out, or back
        self._left_number = 0  # of the store of a host that leaves

    def run(self) -> list[str]:
        with mock.patch("node.admin.removal.log.logger", return_value=SILENT):
            return super().run()

    @property
    def places(self) -> list[Host]:
        return [host for host in self.hosts if host.serves]

    def _client_acts(self) -> None:
        if self.places:
            super()._client_acts()

    @property
    def is_healthy(self) -> bool:
        return self._busy is None and super().is_healthy

    # -- faults -------------------------------------------------------------------------------------------------------------

    def _faults(self) -> None:
        self.world.at(LOOK_MS, self._look)
        super()._faults()

    def _look(self) -> None:
        for host in self.hosts:
            if host.has_left:
                host.send_away()
        self.world.at(LOOK_MS, self._look)

    def _fault(self) -> None:
        world = self.world
        if self._busy is not None or world.chance(0.5):
            super()._fault()
            return
        host = self._busy = world.random.choice(self.hosts)
        if world.chance(0.4) and host.keeper is not None:
            if self.wild and world.chance(0.5):
                self._cut_off(host)
            world.at(world.random.choice([0, 0, 3500]), lambda: self._leave(host))
        elif self.wild and world.chance(0.6):
            self._cut_off(host)
            world.at(world.random.uniform(100, 5000), lambda: self._remove(host))
        elif host.keeper is not None:
            host.stop("and is removed")
            world.at(world.random.uniform(100, 5000), lambda: self._remove(host))
        else:
            self._busy = None

    def _cut_off(self, host: MemberHost) -> None:
        world = self.world
        world.say(f"{host} is cut off")
        for pair in world.random.sample(list(host.pairs.values()), world.random.randint(1, len(host.pairs))):
            pair.cut()
            world.at(world.random.uniform(1000, 6000), pair.heal)

    def _leave(self, host: MemberHost) -> None:
        self.world.say(f"{host} is to leave")
        if host.keeper is None:
            self._back_later(host)
            return
        self._left_number = host.keeper.store.number
        drain = Drain(host.admin)  # type: ignore[arg-type]
        drain._log, drain._order, drain._phase = SILENT, Order(True, 0, 0, 0), "waiting"  # type: ignore[assignment]
        host.admin.draining = True
        self._step(host, drain, self.world.now + TIMEOUT_MS)

    def _step(self, host: MemberHost, drain: Drain, until: float) -> None:
        world, has_left = self.world, host.admin.has_left
        is_over = host.keeper is None or (world.now > until and not has_left)  # the admin process dies with its host
        if not is_over and drain._step(0):
            world.at(STEP_S * 1000, lambda: self._step(host, drain, until))
            return
        world.say(f"{host} has left: {has_left}")
        host.admin.draining = False
        if has_left and host.keeper is not None and self._left_number != host.keeper.store.number:
            self._nothing_is_its(self._left_number, [each for each in self.hosts if each is not host])
        self._back_later(host)

    def _remove(self, host: MemberHost) -> None:
        by = self.world.random.choice([each for each in self.hosts if each is not host])
        try:
            if by.lacks:
                raise LinkError("it has no copy yet: no operator removes who has")
            self.world.say(f"{by} removes {host}")
            found = removal.remove(by.admin, str(host))  # type: ignore[arg-type]
            self._nothing_is_its(found["number"], [by])
        except (LinkError, MembershipError, HTTPNotFound) as error:
            self.world.say(f"{by} does not get through: {error!r}")
        self._back_later(host)

    def _nothing_is_its(self, number: int, hosts: list[MemberHost], before: frozenset[str] = frozenset()) -> None:
        """Is no session known as that host's for long, if it is no member again? `before`: those that were at the last look."""
        for host in hosts:
            directory = None if host.keeper is None else host.keeper.directory
            if directory is None or number not in directory.elsewhere.removed:
                continue
            known = frozenset(cid for cid, record in directory.sessions.items() if record.owner == number)
            if known & before and not directory.writer.is_settling:
                self.world.fault(f"{host} knows sessions of the host {number}, which has left")
            elif known:
                self.world.at(SOON_MS, partial(self._nothing_is_its, number, [host], known))

    def _back_later(self, host: MemberHost) -> None:
        self.world.at(self.world.random.choice([200, 2000, 4500]), lambda: self._come_back(host))

    def _come_back(self, host: MemberHost) -> None:
        for other in self.hosts:
            is_known = other.keeper is not None and host.node_id in other.keeper.replicas.peers
            if is_known and other is not host and host.node_id not in other.interconnect.others():
                self.world.fault(f"the keeper of {other} reckons with {host}, which is no member")
        if not host.interconnect.runs:
            host.start()
        is_back = self._joins(host)
        if is_back:
            self._busy = None
        else:
            self._back_later(host)

    def _joins(self, host: MemberHost) -> bool:
        """mqnode join, unless all have it as a member; True if there is nothing more to do."""
        world, others = self.world, [each for each in self.hosts if each is not host]
        if all(host.node_id in each.interconnect.others() for each in others) and host.interconnect.is_member:
            return True
        doors = [
            each
            for each in others
            if each.interconnect.runs and not each.has_left and not host.pairs[each.node_id].is_cut
        ]
        if not (doors and host.keeper is not None and host.has_left):
            return False
        door = world.random.choice(doors)
        world.say(f"{host} joins again, at {door}")
        table = door.interconnect.table.with_member(door.interconnect.member(host))
        door.interconnect.keep(table)
        host.interconnect.keep(table)
        host.lacks = True
        return True

    # -- the end ------------------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        world = self.world
        world.run(TIMEOUT_MS + 6000)
        for pair in self.pairs:
            pair.heal()
        world.run(4000)
        for host in self.hosts:
            if not self._joins(host):
                world.say(f"{host} does not join")
            world.run(1000)
        self._busy = None
        super()._heal()
