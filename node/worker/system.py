"""`$SYS/broker/...`: each worker gives its own subscribers the host's figures, from the shared counters.

Nothing crosses processes for it and nothing is stored; a new subscription gets the latest values as retained messages.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import gevent

from node import counters
from node.core.loop import Session
from node.worker.sys_topics import SysTopics

if TYPE_CHECKING:
    from node.worker.worker import Worker


class System:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.values: dict[bytes, bytes] = {}
        self._topics = SysTopics(time.monotonic())

    def run(self) -> None:
        interval_s = self.worker.config.sys.interval_s
        while interval_s and not self.worker.stopping:
            self._publish()
            gevent.sleep(interval_s)

    def _publish(self) -> None:
        fresh = self._topics.values(self._totals(), self._heap_bytes(), time.monotonic())
        for topic, value in fresh.items():
            name, payload = topic.encode(), value.encode()
            if self.values.get(name) != payload:
                self.values[name] = payload
                self.worker.loop.publish_here(name, payload)

    def _totals(self) -> dict[str, int]:
        workers = range(counters.WORKER_0, counters.SLOTS)
        slots = [self.worker.counters.read(counters.KEEPER), *(self.worker.counters.read(each) for each in workers)]
        return {name: sum(slot[name] for slot in slots) for name in counters.NAMES}

    def _heap_bytes(self) -> int:
        """Of the host's processes together."""
        slots = map(self.worker.counters.slot, range(counters.SLOTS))
        return sum(_heap_bytes(pid) for slot in slots if (pid := slot[counters.PID]))

    def replay(self, session: Session, filters: list[bytes], identifier: int) -> None:
        """The latest values, to a subscription that asks for `$SYS`."""
        wanted = [each for each in filters if each.startswith(b"$SYS/")]
        if not wanted:
            return
        loop = self.worker.loop
        for filter in wanted:
            records = [
                loop.record(topic, payload, b"", None, 0, True)
                for topic, payload in self.values.items()
                if _matches(filter, topic) and self.worker.may_receive(session, topic)
            ]
            session.retained(records, 0, identifier)


def _heap_bytes(pid: int) -> int:
    """Resident memory that is the process's own: neither files, as the mapped store is, nor shared memory."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except OSError:  # it has just ended
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _matches(filter: bytes, topic: bytes) -> bool:
    wanted, levels = filter.split(b"/"), topic.split(b"/")
    for position, level in enumerate(wanted):
        if level == b"#":
            return True
        if position >= len(levels) or level not in (b"+", levels[position]):
            return False
    return len(wanted) == len(levels)
