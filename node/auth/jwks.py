"""The keys that an issuer shows at auth.jwt.jwks_url, fetched in threads: at the start, each refresh_s, and for an unknown key.

One request at a time, whoever waits for it. The last good keys stay in force while the issuer is away or shows none. A key that
nobody knows makes one request at most in 30 s, so a stranger's tokens are no load for the issuer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.threadpool import ThreadPool

from node.auth.endpoint import Endpoint, Outage
from node.auth.jwt_tokens import JwtTokens
from node.auth.keys import Key, parse_jwks
from node.auth.tokens import IssuerAway
from node.config import Jwt

UNKNOWN_KEY_S = 30.0
_TIMEOUT_S, _BYTES_MAX = 2.0, 1_048_576
_AGAIN_S, _AGAIN_WITHOUT_KEYS_S = 30.0, 2.0  # after a failure, if refresh_s is not sooner


class Jwks:
    """Puts keys into `tokens` and calls `changed` then. Raises AuthFileError if `ca_file` cannot be used."""

    def __init__(self, settings: Jwt, tokens: JwtTokens, changed: Callable[[], None], log: Any) -> None:
        self._settings, self._tokens, self._changed = settings, tokens, changed
        self._endpoint = Endpoint(settings.jwks_url, settings.ca_file, _TIMEOUT_S, _BYTES_MAX)
        self._outage = Outage(log, "jwks", settings.jwks_url)
        self._pool = ThreadPool(1)
        self._etag = ""
        self._request: gevent.Greenlet | None = None
        self._unknown_at = -UNKNOWN_KEY_S

    def run(self) -> None:
        while True:
            self.refresh()
            again_s = _AGAIN_S if self._tokens.keys else _AGAIN_WITHOUT_KEYS_S
            gevent.sleep(min(self._settings.refresh_s, again_s) if self._outage.is_down else self._settings.refresh_s)

    def refresh(self) -> None:
        """Ask, or wait for the answer that is under way."""
        if self._request is None:
            self._request = gevent.spawn(self._refresh)
        self._request.join()

    def wait(self) -> None:
        """For the answer that is under way, if any."""
        if self._request is not None:
            self._request.join()

    def refresh_for_unknown(self) -> None:
        """A token is signed by a key that we do not have."""
        if self._request is None:
            now = time.monotonic()
            if now - self._unknown_at < UNKNOWN_KEY_S:
                return
            self._unknown_at = now
        self.refresh()

    def _refresh(self) -> None:
        try:
            found = self._pool.apply(self._fetch)
        finally:
            self._request = None
        if isinstance(found, IssuerAway):
            if self._tokens.keys:
                self._outage.down(str(found), "the last keys stay in force")
            else:
                self._outage.down(str(found), "no token can be verified: clients are refused (0x88)", is_error=True)
            return
        self._outage.up()
        if found is not None and found != self._tokens.keys:
            self._tokens.keys = found
            self._changed()

    def _fetch(self) -> tuple[Key, ...] | IssuerAway | None:
        """None: as before. In a thread, where gevent prints what is raised: so it is returned."""
        try:
            status, headers, content = self._endpoint.ask({"If-None-Match": self._etag} if self._etag else {})
            if status == 304:
                return None
            keys = parse_jwks(content, self._settings.algorithms)
        except IssuerAway as away:
            return away
        except ValueError as error:
            return IssuerAway(f"{self._settings.jwks_url}: {error}")
        self._etag = headers.get("ETag", "")
        return keys
