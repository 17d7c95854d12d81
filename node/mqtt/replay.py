"""The retained messages that new subscriptions bring, at the pace of their clients and of everybody else.

What is found within a few milliseconds goes at once; the rest of all subscriptions shares one greenlet, which serves them in turn
and lets the worker do its other work in between: a filter may have to look at every retained message of the host.

A message that is sent live may not be in the store yet, and one that has been read waits for its client. So a replay leaves out the
topics of which its client was sent a message to be retained since it subscribed: nothing older comes behind a newer one.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import gevent

from node.core.loop import Connection, Session
from node.core.wire import record_names
from node.mqtt import client as codes

if TYPE_CHECKING:
    from node.worker.worker import Worker

_SLICE_S = 0.005
_REST_S = 0.001  # behind a slice; not 0, with which gevent would do fifty of them before it looks at a socket
_WAIT_S = 0.005  # for clients that take nothing now
_REPLACED_MAX = 100_000  # topics; by then the store has the first of them
_FILTERS_MAX = 100_000  # of one client that wait for their turn, each some hundred bytes


class Replay:
    """For one SUBSCRIBE: its filters with their options, and how far it has come. Nothing is read ahead of the client."""

    def __init__(
        self,
        worker: Worker,
        connection: Connection,
        session: Session,
        filters: list[tuple[bytes, int]],
        identifier: int,
    ) -> None:
        self.connection, self._session, self._identifier = connection, session, identifier
        self.filters = filters
        self._replaced: set[bytes] = set()  # the core adds to it
        self._worker = worker
        if session.attached:  # until it is detached
            worker.loop.replays.setdefault(session, {})[self] = self._replaced
        self._found = self._search()
        self._records: list[bytes] = []
        self._options = 0

    def _search(self) -> Iterator[tuple[list[bytes], int]]:
        """What the filters find, with their options, in the small lists in which the store is read."""
        worker = self._worker
        for records, options in worker.reader.retained_of(self.filters, worker.loop.clock_ms):
            if not worker.authorizer.allows_all:
                records = [record for record in records if worker.may_receive_retained(self._session, record)]
            yield records, options

    @property
    def is_blocked(self) -> bool:
        """Waits for its client."""
        return bool(self._records)

    def some(self) -> bool:
        """Send what a moment and the client allow; True when there are no more, or no client."""
        until = time.monotonic() + _SLICE_S
        self._leave_out_replaced()
        if len(self._replaced) > _REPLACED_MAX:
            self._replaced.clear()
        while self._session.attached and not self.connection.is_closing:
            if not self._records:
                found = next(self._found, None)
                if found is None:
                    break
                self._records, self._options = found
                self._leave_out_replaced()
            taken = self._session.retained(self._records, self._options, self._identifier)
            self._records = self._records[taken:]
            if self._records or time.monotonic() > until:
                return False
        self._end()
        return True

    def _leave_out_replaced(self) -> None:
        if self._replaced:
            self._records = [record for record in self._records if record_names(record)[0] not in self._replaced]

    def _end(self) -> None:
        running = self._worker.loop.replays.get(self._session, {})
        running.pop(self, None)
        if not running:
            self._worker.loop.replays.pop(self._session, None)


class Replays:
    """Those of a worker that were not done at once."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: deque[Replay] = deque()
        self._filters: Counter[Connection] = Counter()  # of those that wait

    def begin(self, replay: Replay) -> None:
        if replay.some():
            return
        if self._filters[replay.connection] + len(replay.filters) > _FILTERS_MAX:
            text = f"more than {_FILTERS_MAX} filters wait for their retained messages"
            self._worker.ends.drop(replay.connection, codes.QUOTA_EXCEEDED, text)
            return
        self._filters[replay.connection] += len(replay.filters)
        self._waiting.append(replay)
        if len(self._waiting) == 1:
            self._worker.loop.awaits(gevent.spawn(self._run))

    def _run(self) -> None:
        blocked = 0  # in a row
        while self._waiting:
            replay = self._waiting[0]
            done = replay.some()
            self._waiting.rotate(-1)
            if done:
                self._forget(self._waiting.pop())
            blocked = blocked + 1 if replay.is_blocked and not done else 0
            gevent.sleep(_WAIT_S if blocked > len(self._waiting) else _REST_S)

    def _forget(self, replay: Replay) -> None:
        self._filters[replay.connection] -= len(replay.filters)
        if not self._filters[replay.connection]:
            del self._filters[replay.connection]
