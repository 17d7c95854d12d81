"""Clients are sent to other hosts while this one is drained (node/admin/drain.py), and nobody is let in meanwhile.

Whether that is so stands in the counters of the admin process and of the interconnect: whoever of them dies takes it back.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from node import counters

if TYPE_CHECKING:
    from node.worker.worker import Worker


class Moves:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        admin = worker.counters.slot(counters.ADMIN)
        interconnect = worker.counters.slot(counters.INTERCONNECT)
        self._said = ((admin, counters.INDEX["draining"]), (interconnect, counters.INDEX["left"]))
        self.closed = False
        self._turn = 0

    def look(self) -> None:
        """Stop listening, or begin again, as is wanted now."""
        closed = any(slot[index] for slot, index in self._said)
        if closed == self.closed or self._worker.stopping:
            return
        self.closed = closed
        if closed:
            self._worker.deafen()
        else:
            self._worker.listen()
        self._worker.log.info("listeners_closed" if closed else "listeners_open")

    def move(self, count: int, references: dict[str, list[str]], reason: int) -> int:
        """Send so many clients away, to the addresses for their type of listener in turn; how many there were."""
        worker = self._worker
        self.look()  # who is sent away must not come back
        there = len(worker.clients)
        for connection in list(islice(worker.clients.values(), count)):
            addresses = references.get(connection.listener.type, ())
            self._turn += 1
            reference = addresses[self._turn % len(addresses)] if addresses else ""
            worker.ends.drop(connection, reason, "another host goes on with it", reference)
        return there
