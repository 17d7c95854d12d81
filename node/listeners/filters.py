"""The filter between a socket and the MQTT parser: TLS, WebSocket, PROXY protocol, and chains of them.

Sans-io: the core gives it what the socket gave, takes what the socket shall send, and closes the connection when
`receive` raises FilterError, after writing what `take` still holds. A filter never blocks and never sees a socket.
"""

from __future__ import annotations

import re
from typing import Protocol

_UNUSABLE = re.compile(r"[+#*\x00-\x1f\x7f-\x9f]")  # MQTT and DNS wildcards, control characters


class FilterError(Exception):
    """The connection must be closed; the text is a short reason for the log. The client is at fault, not us."""


class ListenError(Exception):
    """A listener cannot be opened as configured; the text says why, what it means, and what to do."""


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
        self._left = b""  # unsent bytes and facts of filters that are finished and gone
        self._facts: dict[str, object] = {}
        self.finished = False

    def receive(self, data: bytes) -> bytes:
        position = 0
        while data and position < len(self._filters):
            part = self._filters[position]
            try:
                data = part.receive(data)
            finally:  # of an alert or a close frame, too
                self._push_out(position)
            if part.finished and position == 0 and len(self._filters) > 1:
                self._filters.pop(0)
                self._left += part.take()
                self._facts.update(part.facts())
            else:
                position += 1
        self.finished = len(self._filters) == 1 and self._filters[0].finished
        return data

    def send(self, data: bytes) -> None:
        self._filters[-1].send(data)
        self._push_out(len(self._filters) - 1)

    def take(self) -> bytes:
        data, self._left = self._left + self._filters[0].take(), b""
        return data

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
        for inner in range(position, 0, -1):
            data = self._filters[inner].take()
            if data:
                self._filters[inner - 1].send(data)


def usable_name(name: str | bytes) -> str:
    """`name` if it can be a user name: UTF-8, no wildcards, no control characters. Raises FilterError."""
    try:
        text = name.decode() if isinstance(name, bytes) else name
        text.encode()  # no surrogates
    except UnicodeError as error:
        raise FilterError("the name in the certificate is not UTF-8") from error
    if not text or _UNUSABLE.search(text):
        raise FilterError("the name in the certificate is empty or has wildcards or control characters")
    return text
