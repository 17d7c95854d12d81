"""One URL of an issuer of tokens, asked over HTTP: call `ask` in a thread. A new connection each time, no redirect, no proxy.

The answer is bounded in time and bytes; with https the host's certificate is verified. `Outage` tells the operator once that
the issuer is away, and once that it is back.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from node.auth.files import AuthFileError
from node.auth.tokens import IssuerAway


class Endpoint:
    """Raises AuthFileError if `ca_file` cannot be used."""

    def __init__(self, url: str, ca_file: str, timeout_s: float, bytes_max: int) -> None:
        parts = urlsplit(url)
        self.url = url
        # Without a port http.client would look for one in an IPv6 address
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._timeout_s, self._bytes_max = timeout_s, bytes_max
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=ca_file or None)
            except (OSError, ssl.SSLError) as error:
                raise AuthFileError(ca_file, None, f"it holds no certificates ({error})", "Name a PEM file.") from error

    def ask(self, headers: dict[str, str], body: bytes | None = None) -> tuple[int, http.client.HTTPMessage, bytes]:
        """POST of `body`, or GET. Status (200 or 304), headers and content. Raises IssuerAway."""
        connection, is_late = self._connection(), threading.Event()
        until, timer = time.monotonic() + self._timeout_s, None
        try:
            connection.connect()
            left_s = max(0.0, until - time.monotonic())
            timer = threading.Timer(left_s, self._end, (connection.sock, is_late))
            timer.daemon = True
            timer.start()
            connection.request(
                "GET" if body is None else "POST", self._path, body, {"Accept": "application/json"} | headers
            )
            answer = connection.getresponse()
            content = answer.read(self._bytes_max + 1)
            if is_late.is_set():
                raise TimeoutError
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, TimeoutError) or is_late.is_set():
                raise IssuerAway(f"{self.url} took longer than {self._timeout_s:g} s") from None
            raise IssuerAway(f"{self.url}: {error or type(error).__name__}") from None
        finally:
            if timer is not None:
                timer.cancel()
            connection.close()
        if len(content) > self._bytes_max:
            raise IssuerAway(f"{self.url} answered more than {self._bytes_max} bytes")
        if answer.status not in (200, 304):
            hint = "; redirects are not followed" if 300 <= answer.status < 400 else ""
            raise IssuerAway(f"{self.url} answered {answer.status}{hint}")
        return answer.status, answer.headers, content

    @staticmethod
    def _end(connected: socket.socket, is_late: threading.Event) -> None:
        """However slowly it comes: a timeout of the socket begins anew with each byte."""
        is_late.set()
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)


class Outage:
    """`what` is away since `down`, until `up`."""

    def __init__(self, log: Any, what: str, url: str) -> None:
        self._log, self._what, self._url = log, what, url
        self.is_down = False

    def down(self, cause: str, effect: str, *, is_error: bool = False) -> None:
        if not self.is_down:
            tell = self._log.error if is_error else self._log.warning
            tell(f"{self._what}_away", cause=cause, effect=effect, next=f"look from this host: curl -i {self._url}")
        self.is_down = True

    def up(self) -> None:
        if self.is_down:
            self._log.info(f"{self._what}_back", url=self._url)
        self.is_down = False
