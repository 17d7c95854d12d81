"""Three hosts in sync, and what schedules by hand do with them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgspec

from node.config.keys import Limits
from node.sessions.directory import Directory
from storage.writer import parse_entry
from tests.simulation.host import Host
from tests.simulation.worker import DONE, PUBLISH, RECEIVED, claim, message, operation
from tests.simulation.world import Pair, World


class Three:
    def __init__(self, folder: Path, limits: Limits | None = None, seed: int = 1) -> None:
        self.world = World(seed)
        self.hosts = [Host(self.world, index, folder) for index in range(3)]
        a, b, c = self.hosts
        self.pairs = {
            names: Pair(self.world, *hosts) for names, hosts in (("ab", (a, b)), ("bc", (b, c)), ("ac", (a, c)))
        }
        for host in self.hosts:
            if limits is not None:
                host.config = msgspec.structs.replace(host.config, limits=limits)
            host.start()
        self.world.run(800)

    # -- clients ----------------------------------------------------------------------------------------------------------

    def connect(self, host: Host, cid: str, number: int, **values: Any) -> None:
        """A client, whose connection has this number. `values`: see `claim`."""
        assert host.worker is not None
        host.worker.call("claim", claim(cid, number, **values))

    def mortal(self, host: Host, cid: str, delay_s: int) -> None:
        """A client with a will."""
        will = {"delay_s": delay_s, "record": message("wills", cid, 1, False, 0), "cid": cid}
        self.connect(host, cid, len(cid), will=will)

    def subscriber(self, host: Host, cid: str, expiry_s: int) -> int:
        """A client, on connection 1, that has subscribed to "a"; the id of its session."""
        sids: list[int] = []
        assert host.worker is not None
        host.worker.call("claim", claim(cid, 1, expiry_s=expiry_s), lambda ok, result: sids.append(result["sid"]))
        self.world.run(100)
        host.worker.call("subscribe", {"sid": sids[0], "subs": [["a", 2, 0]]})
        self.world.run(100)
        return sids[0]

    def leave(self, host: Host, cid: str, expiry_s: int) -> None:
        """The client on connection 1."""
        assert host.worker is not None
        host.worker.call("detach", [cid, 1, expiry_s, "drop", 0])

    def publish(self, host: Host, cid: str) -> None:
        """A QoS 2 message for the client's session, which another host has."""
        assert host.worker is not None
        assert host.keeper is not None
        target = struct.pack("<QBB", host.keeper.directory.sessions[cid].sid, 2, 0)
        host.worker.operate(
            operation(PUBLISH, struct.pack("<QHQQQH", 0, 0, 0, 0, 0, 1) + target + message("a", "it", 2, False, 0)),
            lambda: None,
        )

    def take(self, host: Host) -> None:
        """A client of this host gets the first message that is queued, and ends its QoS 2 flow."""
        assert host.worker is not None
        assert host.keeper is not None
        with host.keeper.store.environment.begin() as transaction:
            first = next(iter(transaction.cursor(db=host.keeper.store.databases["queue"]).iternext(values=False)))
        for kind in (RECEIVED, DONE):
            host.worker.operate(operation(kind, struct.pack("<QQ", *struct.unpack(">QQ", first))), lambda: None)

    def queue_unknown_to_b(self) -> None:
        """Of C's client "it": a message that C has moved there, when only A was told."""
        a, _, c = self.hosts
        self.mortal(c, "it", 0)
        self.world.run(500)
        self.cut("bc")
        self.publish(a, "it")
        self.world.run(20)
        assert self.queued() == [1, 0, 1]

    # -- faults -----------------------------------------------------------------------------------------------------------

    def cut(self, *names: str) -> None:
        for each in names:
            self.pairs[each].cut()

    def heal(self, *names: str) -> None:
        for each in names:
            self.pairs[each].heal()

    def kill(self, host: Host) -> None:
        """All others notice at the same moment."""
        host.stop("for good")
        for pair in host.pairs.values():
            for side in pair.sides.values():
                if side.host is not host:
                    side.down(True)

    # -- what is there ----------------------------------------------------------------------------------------------------

    def queued(self) -> list[int]:
        """Messages that wait in queues, at each host; not what is left of those that a client may have."""
        counts = []
        for store in [host.keeper.store for host in self.hosts if host.keeper is not None]:
            with store.environment.begin() as transaction:
                entries = map(parse_entry, transaction.cursor(db=store.databases["queue"]).iternext(keys=False))
                counts.append(sum(entry is not None and not entry[0] for entry in entries))
        return counts

    def directories(self) -> list[Directory]:
        return [host.keeper.directory for host in self.hosts if host.keeper is not None]

    def inbox(self, host: Host) -> int:
        """Entries for sessions of other hosts."""
        assert host.keeper is not None
        store = host.keeper.store
        with store.environment.begin() as transaction:
            return int(transaction.stat(store.databases["inbox"])["entries"])

    def subscriptions(self, *hosts: Host) -> list[set[tuple[int, str]]]:
        """(session id, filter) by which each of these routes."""
        return [host.worker.subscriptions for host in hosts if host.worker is not None]

    def wills(self) -> list[str]:
        """That have been published, by whichever host."""
        return sorted(cid for host in self.hosts if host.worker is not None for cid in host.worker.wills)
