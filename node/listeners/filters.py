"""The filter between a socket and the MQTT parser: TLS, WebSocket, PROXY protocol, and chains of them.

Sans-io: the core gives it what the socket gave, takes what the socket shall send, and closes the connection when
`receive` raises FilterError, after writing what `take` still holds. A filter never blocks and never sees a socket.
"""

from __future__ import annotations

from typing import Protocol


class FilterError(Exception):
    """The connection must be closed; the text is a short reason for the log. The client is at fault, not us."""


class Filter(Protocol):
    finished: bool  # nothing left to do: the core drops the filter and uses the socket directly

    def receive(self, data: bytes) -> bytes:
        """Raw bytes in, plain bytes out. b"" as input is of no meaning; the core handles the end of the stream."""

    def send(self, data: bytes) -> None:
        """Plain bytes in; raw ones are to be had from `take`."""

    def take(self) -> bytes:
        """The raw bytes that wait to be written. They leave the filter."""

    def close(self) -> None:
        """Queue the polite end: close_notify, or a WebSocket close frame."""

    def facts(self) -> dict[str, object]:
        """What the core cannot see itself: `user` of the certificate, `address` of the PROXY header, `tls` …"""


class Chain:
    """Filters one behind the other, the one next to the socket first: PROXY, TLS, WebSocket."""

    def __init__(self, filters: list[Filter]) -> None:
        self._filters = filters
        self._facts: dict[str, object] = {}  # of filters that are finished and gone
        self.finished = False

    def receive(self, data: bytes) -> bytes:
        for position, part in enumerate(self._filters):
            try:
                data = part.receive(data)
            finally:
                self._push_out(position)
            if not data:
                break
        self._drop_finished()
        return data

    def send(self, data: bytes) -> None:
        self._filters[-1].send(data)
        self._push_out(len(self._filters) - 1)

    def take(self) -> bytes:
        return self._filters[0].take()

    def close(self) -> None:
        for position in range(len(self._filters) - 1, -1, -1):
            self._filters[position].close()
            self._push_out(position)

    def facts(self) -> dict[str, object]:
        facts = dict(self._facts)
        for part in self._filters:
            facts.update(part.facts())
        return facts

    def _push_out(self, position: int) -> None:
        """Hand what the filter at `position` wants to write through those nearer to the socket."""
        for outer in range(position, 0, -1):
            data = self._filters[outer].take()
            if data:
                self._filters[outer - 1].send(data)

    def _drop_finished(self) -> None:
        while self._filters[0].finished:
            if len(self._filters) == 1:
                self.finished = True
                return
            gone = self._filters.pop(0)
            self._facts.update(gone.facts())
            assert not gone.take(), "a finished filter still holds bytes"
