"""The interconnect process: `python -m node.interconnect --config FILE`. What leaves for other hosts and comes from them.

Frames of the keepers pass through as they are (keeper_bridge.py), those of the workers through crossing.py, and tables of
members through table.py. The command line asks through requests.py.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent.event import Event

from mesh import channel, transport
from mesh.identity import Identity, IdentityError
from mesh.membership import Membership, MembershipError
from mesh.secret import SecretError
from mesh.zap import TransportError
from node import __version__, counters, log
from node.admin.host import TROUBLE
from node.begin import begin
from node.config import Config, run_dir, worker_count
from node.discovery.rounds import Discovery
from node.interconnect.cluster import Cluster
from node.interconnect.crossing import KINDS, Crossing
from node.interconnect.door import Door
from node.interconnect.keeper_bridge import KeeperBridge
from node.interconnect.reports import Reports
from node.interconnect.requests import ClusterRequests
from node.interconnect.table import TableExchange

KEEPER, TABLE, ADVERTISED, REPORT, STOPPING = 1, 2, 3, 4, 5  # frames between interconnects
BEAT_S = 0.2
KEEPER_AWAY_S = 2.0
LEAVE_S = 5.0  # more than an eviction takes
STOP_S, STOP_LOOK_S = 0.5, 0.01

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


class Interconnect:
    """The handler of the transport."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._log = log.logger("interconnect")
        self._run_dir = run_dir(config)
        interconnect = config.interconnect
        self.cluster = Cluster(
            Path(config.node.data_dir),
            config.node.name,
            interconnect.advertise or interconnect.bind,
            config.cluster.name,
        )
        self.door = Door(self.cluster, interconnect.bind, self.table_changed, lambda: not self.has_left)
        self._keeper = KeeperBridge(
            self._run_dir, self._members, lambda node_id, message: self._send(node_id, KEEPER, message), self._welcome,
            self.refuse,
        )  # fmt: skip
        self.reports = Reports(config, self.cluster)
        self._table = TableExchange(
            self.cluster, lambda node_id, table: self._send(node_id, TABLE, table), self.table_changed, self._name
        )
        self._welcomed = Event()
        self._incarnation = 0
        self._keeper_seen_s = time.monotonic()
        self._transport: transport.Transport | None = None
        self._refusals: dict[bytes, int] = {}
        self._unaware: set[bytes] = set()  # when this host leaves: of these we do not know whether they know
        self._crossing = Crossing(self._run_dir, worker_count(config), self._send)
        self.discovery = Discovery(config, self)
        # By peers that are there: type and address of their listeners
        self._advertised: dict[bytes, list[tuple[str, str]]] = {}

    def run(self, slot: memoryview) -> None:
        self._slot = self._crossing.slot = slot
        self._show()
        self._keeper.start()
        self._welcomed.wait()
        if not self.cluster.has_left:
            self.start_transport()
            self.discovery.start()
        ClusterRequests(self).start(self._run_dir / "interconnect.sock")
        stop = Event()
        gevent.signal_handler(signal.SIGTERM, stop.set)
        slot[counters.INDEX["ready"]] = 1
        (self._run_dir / TROUBLE).unlink(missing_ok=True)
        if self.cluster.name_ignored:
            self._log.warning(
                "cluster_name_ignored", cause=f'the configuration says cluster.name = "{self.cluster.wanted_name}"',
                effect=f"this host stays in its cluster, which is named {self.cluster.table.name} as when it began",
                next=f'set cluster.name = "{self.cluster.table.name}"; for another cluster: mqnode leave, then mqnode join',
            )  # fmt: skip
        if self.cluster.name_taken:
            self._log.error(
                "name_taken", cause=f'another host of the cluster is named "{self.cluster.name_taken}"',
                effect=f"for the others this host is {self.cluster.name}, as before",
                next="choose another node.name, and restart this host; mqnode cluster nodes shows the names",
            )  # fmt: skip
        self._log.info("ready", bind=self._config.interconnect.bind, node_id=self.cluster.identity.node_id.hex())
        while not stop.wait(BEAT_S):
            counters.beat(slot)
            self._show()
            if self.cluster.has_left and not self._unaware:
                self._stop_transport()
            self.door.keep()
            self._look_at_keeper()
            self._report()
        self.discovery.stop()
        self._take_leave()
        self._stop_transport()

    def _show(self) -> None:
        """For the other processes: whether this host may serve, and how many others there are."""
        left = int(self.cluster.has_left)
        if left != self._slot[counters.INDEX["left"]]:
            self._slot[counters.INDEX["left"]] = left
            self._keeper.tell_cluster()
        self._slot[counters.INDEX["others"]] = len(self._others())

    @property
    def has_left(self) -> bool:
        """It is no member any more: by itself, or removed."""
        return bool(self._slot[counters.INDEX["left"]])

    # -- the keeper ---------------------------------------------------------------------------------------------------------

    def _welcome(self, arguments: dict[str, Any]) -> None:
        self._crossing.clock_offset_ms = arguments["clock_offset_ms"]
        if not self._welcomed.is_set():
            self._incarnation = arguments["incarnation"]
            self._welcomed.set()

    def _look_at_keeper(self) -> None:
        """A host whose keeper cannot serve must not make its peers wait for it."""
        if self._keeper.connected:
            self._keeper_seen_s = time.monotonic()
            if self._transport is None and not self.cluster.has_left:
                self.start_transport()
        elif self._transport is not None and time.monotonic() - self._keeper_seen_s > KEEPER_AWAY_S:
            self._log.error("interconnect_closed", cause="the keeper does not run", effect="the peers go on without this host",
                            next="mqnode status")  # fmt: skip
            # The next keeper has to hear of them before it serves: none is known to be gone
            self._stop_transport(evicts=False)

    # -- the transport, and what it calls ---------------------------------------------------------------------------------------

    def start_transport(self) -> None:
        if self._transport is not None:
            self._transport.stop()
        self._transport = transport.Transport(
            self.cluster.identity,
            self.cluster.table,
            self._config.interconnect.bind,
            self,
            incarnation=self._incarnation,
            release=__version__,
        )
        self._refusals.clear()

    def joined(self, table: Membership) -> None:
        """This host is in another cluster now, or in its old one again. Raises MembershipError, StampError."""
        had_left = self.cluster.has_left
        if not had_left and table.cluster_id == self.cluster.table.cluster_id:  # a member already: its links go on
            if self.cluster.learn(table.to_json()):
                self.table_changed()
            return
        self.cluster.keep(table)
        self._show()
        self._keeper.tell_members()
        self.start_transport()
        if had_left:
            self.discovery.start()

    def use_key(self, new: Identity) -> None:
        self.cluster.use_key(new)
        if self._transport is not None:
            self._transport.use_key(new)
        self.door.use_key()
        self.discovery.stop()
        self.discovery.start()

    def leave(self) -> None:
        """From now on this host is no member; returns when no other one reckons with its disk: it knows that, or has evicted it."""
        self.discovery.stop()
        self._unaware = set(self._others())
        self.cluster.leave()
        self._show()
        self._table.send(self._keeper.up)
        with gevent.Timeout(LEAVE_S, False):
            while self._unaware:  # also of those whose link is broken
                gevent.sleep(BEAT_S)
        self._unaware.clear()
        self._stop_transport()
        self._log.info("host_left", cluster=self.cluster.table.name, next="mqnode join, if it is to be a member again")

    def heals(self) -> list[dict[str, Any]]:
        """What this host has merged, the last first."""
        table = self.cluster.table
        names = {each.node_id: each.name for each in table.members.values()} | table.shown_names()
        found = []
        for each in reversed(self._keeper.heals):
            node_id = bytes.fromhex(each["peer"])
            is_member = node_id in table.members and table.members[node_id].state == "active"
            found.append(each | {"peer": names.get(node_id, each["peer"]), "is_member": is_member})
        return found

    def references(self) -> dict[str, list[str]]:
        """Where clients may go to, by the type of their listener."""
        found: dict[str, list[str]] = {}
        for listeners in self._advertised.values():
            for kind, address in listeners:
                found.setdefault(kind, []).append(address)
        return found

    def _take_leave(self) -> None:
        """If the whole host stops, its workers have ended before us: nobody needs to wait for it then."""
        with gevent.Timeout(STOP_S, False):
            while self._crossing.has_workers:
                gevent.sleep(STOP_LOOK_S)
            if self._transport is not None:
                self._transport.hear_no_more()  # who is told opens a new channel at once, and would wait for this host again
            for node_id in self._keeper.up:
                self._send(node_id, STOPPING, b"")
            while any(each.queue_bytes for each in self.links().values()):
                gevent.sleep(STOP_LOOK_S)

    def _stop_transport(self, *, evicts: bool = True) -> None:
        """Nobody is up any more. The log has the reason already, and it is not the peers'."""
        if self._transport is not None:
            self._transport.stop()
            self._transport = None
            for node_id in list(self._keeper.up):
                self._forget(node_id)
                self._keeper.peer_down(node_id, evicted=evicts)

    def _send(self, node_id: bytes, kind: int, *body: bytes) -> bool:
        return self._transport is not None and self._transport.send(node_id, kind, *body)

    def links(self) -> dict[bytes, transport.Counters]:
        return {} if self._transport is None else self._transport.counters()

    def _report(self) -> None:
        """What every host shows of this one."""
        self._keeper.look()
        links = self.links()
        self._say_refusals(links)
        report = self.reports.make(links, self._keeper.copies, self._keeper.digests)
        for node_id in self._keeper.up:
            self._send(node_id, REPORT, report)
        self._table.send_again(each for each in self._keeper.up if self.reports.has_another_table(each))

    def _say_refusals(self, links: dict[bytes, transport.Counters]) -> None:
        for node_id, link in links.items():
            if link.refusals > self._refusals.get(node_id, 0):
                self._log.error(
                    "peer_refused", peer=self._name(node_id), cause=link.trouble,
                    effect="nothing is replicated between the two hosts, and both serve",
                    next="install the same release on both: docs/operating.md, Upgrade",
                )  # fmt: skip
            self._refusals[node_id] = link.refusals

    def refuse(self, node_id: bytes, what: str) -> None:
        """No link with who says what is not understood, rather than one on which something is missing."""
        if self._transport is not None:
            why = f"it says what this host does not understand ({what}), so its release is newer: upgrade this host"
            self._transport.refuse(node_id, why)

    def up(self, node_id: bytes) -> None:
        if node_id in self._keeper.up:
            return  # after `suspect`: the same channel goes on
        self._table.send([node_id])
        advertised = [(each.type, each.advertise) for each in self._config.listeners if each.advertise]
        self._send(node_id, ADVERTISED, _encode(advertised))
        self._keeper.peer_up(node_id)
        self._crossing.peer_up(node_id)
        self._log.info("peer_up", peer=self._name(node_id))

    def suspect(self, node_id: bytes) -> None:
        self._log.warning(
            "peer_suspect", peer=self._name(node_id), cause="it has not answered for a second",
            effect="acknowledgements wait for it, for two seconds more", next="mqnode cluster nodes",
        )  # fmt: skip

    def stood_still(self, for_s: float) -> None:
        self._keeper.stood_still(for_s)

    def _forget(self, node_id: bytes) -> None:
        self._advertised.pop(node_id, None)
        self._crossing.peer_down(node_id)

    def down(self, node_id: bytes, reason: str) -> None:
        self._forget(node_id)
        if reason in (channel.STOPPED, channel.DEAD):
            self._unaware.discard(node_id)
        if reason == transport.LEFT:
            self._keeper.peer_left(node_id)
        else:
            self._keeper.peer_down(node_id, evicted=reason in channel.EVICTIONS)
        self._log.warning(
            "peer_down", peer=self._name(node_id), cause=reason,
            effect="this host goes on alone, at once or when it is evicted", next="mqnode cluster nodes",
        )  # fmt: skip

    def frame(self, node_id: bytes, kind: int, body: bytes) -> None:
        if kind == KEEPER:
            self._keeper.from_peer(node_id, body)
        elif kind in KINDS:
            self._crossing.peer_frame(node_id, kind, body)
        elif kind == ADVERTISED:
            self._advertised[node_id] = _decode(body)
        elif kind == REPORT:
            self.reports.heard(node_id, body)
        elif kind == STOPPING and self._transport is not None:
            self._transport.stopped(node_id)
        elif kind == TABLE:
            self._table.learn(node_id, body)
        else:
            self.refuse(node_id, f"frame {kind}")

    def removed(self, node_id: bytes, table: bytes) -> None:
        self._table.learn(node_id, table)
        if not self._keeper.up:  # else another one knows better
            self._table.removed(node_id)

    def try_addresses(self, addresses: dict[bytes, str]) -> None:
        """Members that are not up may be there and no longer where the table says; once up they tell themselves."""
        table = self.cluster.table
        for node_id in addresses.keys() - self._keeper.up:
            table = table.at(node_id, addresses[node_id])
        if self._transport is not None and table is not self.cluster.table:
            self._transport.update_members(table)

    def _others(self) -> list[bytes]:
        own = self.cluster.identity.node_id
        members = [] if self.cluster.has_left else self.cluster.table.active()
        return [each.node_id for each in members if each.node_id != own]

    def _members(self) -> dict[str, Any]:
        """Whom the keeper has to reckon with, and with whom no longer; the cluster of which this host is a member."""
        own, table = self.cluster.identity.node_id, self.cluster.table
        left = [each.node_id for each in table.left() if each.node_id != own]
        return {"members": self._others(), "left": left, "cluster": b"" if self.has_left else table.cluster_id}

    def interested(self, topic: bytes) -> set[bytes]:
        return self._crossing.interested(topic, self.cluster.identity.node_id)

    def _name(self, node_id: bytes) -> str:
        return self.cluster.table.shown_names().get(node_id, node_id.hex())

    def table_changed(self) -> None:
        """The table is another one: use it, and pass it on. Who has left is told that this host knows it, and need not wait."""
        for node_id in self._keeper.up - set(self._others()):
            self._send(node_id, STOPPING, b"")
        self._keeper.tell_members()
        if self._transport is not None:
            self._transport.update_members(self.cluster.table)
        self._table.send(self._keeper.up)


def main(arguments: list[str]) -> None:
    config = begin("interconnect", arguments)
    slot = counters.Counters(run_dir(config) / "counters").claim(counters.INTERCONNECT)
    try:
        Interconnect(config).run(slot)
    except (IdentityError, MembershipError, SecretError, TransportError) as error:
        trouble = run_dir(config) / TROUBLE
        if not trouble.exists() or trouble.read_text() != str(error):  # else that was said a second ago
            trouble.write_text(str(error))
            log.logger("interconnect").error(
                "interconnect_stopped", cause=str(error), effect="nothing is replicated, and no other host is seen",
                next="it starts anew every second, and works when the cause is gone: mqnode check insync",
            )  # fmt: skip
        with counters.beating(slot):
            gevent.sleep(1)
        sys.exit(1)
