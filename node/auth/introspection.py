"""OAuth 2.0 Token Introspection (RFC 7662): the issuer is asked whether a token is active, and whose it is.

At most 8 questions at a time, in threads of its own. A good answer holds for cache_s, at most until the token's exp; of the token a
keyed hash is kept. Any other answer, or none, refuses the client. After 5 failures in a row the issuer is asked once in 5 s only,
and all others are refused at once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Any
from urllib.parse import quote_plus, urlencode

from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool

from node.auth.endpoint import Endpoint, Outage
from node.auth.files import read_secret
from node.auth.tokens import LEEWAY_S, TOKEN_BYTES_MAX, IssuerAway, Token, TokenRefused, instant, token_of
from node.config import Introspection

AT_ONCE = 8
CACHED_MAX = 65_536  # a full cache is emptied
FAILURES_MAX, ASK_AGAIN_S = 5, 5.0
_BYTES_MAX = 65_536


class Circuit:
    """Open after so many failures in a row: then one may try from time to time. Time is an argument."""

    def __init__(self) -> None:
        self._failures = 0
        self._tried_at = 0.0

    def allows(self, now_s: float) -> bool:
        """May it be asked now?"""
        if self._failures >= FAILURES_MAX and now_s - self._tried_at < ASK_AGAIN_S:
            return False
        self._tried_at = now_s
        return True

    def failed(self) -> None:
        self._failures += 1

    def succeeded(self) -> None:
        self._failures = 0


class Introspector:
    """Raises AuthFileError if `client_secret_file` or `ca_file` cannot be used."""

    def __init__(self, settings: Introspection, log: Any) -> None:
        self._settings = settings
        self._endpoint = Endpoint(settings.url, settings.ca_file, settings.timeout_s, _BYTES_MAX)
        self._outage = Outage(log, "introspection", settings.url)
        self._circuit = Circuit()
        self._pool, self._free = ThreadPool(AT_ONCE), BoundedSemaphore(AT_ONCE)
        self._hash_key = secrets.token_bytes(32)
        self.reload()

    def reload(self) -> None:
        """Read the secret anew and forget what was answered. Raises AuthFileError; then all stays as it is."""
        secret = read_secret(self._settings.client_secret_file)
        pair = f"{quote_plus(self._settings.client_id)}:{quote_plus(secret)}"  # RFC 6749, 2.3.1
        self._authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._good: dict[bytes, tuple[float, Token]] = {}  # hash of a token -> until when (monotonic), and whose it is

    def judge(self, text: bytes) -> Token:
        """In a greenlet, which waits. Raises TokenRefused, IssuerAway."""
        if len(text) > TOKEN_BYTES_MAX or not text.isascii() or not text.decode("ascii", "replace").isprintable():
            raise TokenRefused("no issuer makes such a token")
        name = hashlib.blake2b(text, digest_size=16, key=self._hash_key).digest()
        until, token = self._good.get(name, (0.0, None))
        if token is not None and time.monotonic() < until and time.time() < token.ends_at:
            return token
        good = self._good
        token = self._judge_answer(self._answer(text))
        if self._settings.cache_s:
            if len(good) >= CACHED_MAX:
                good.clear()
            good[name] = (time.monotonic() + self._settings.cache_s, token)
        return token

    def _answer(self, text: bytes) -> dict[str, Any]:
        if not self._free.acquire(timeout=self._settings.timeout_s):
            raise IssuerAway("too many tokens wait for their issuer")
        try:
            if not self._circuit.allows(time.monotonic()):
                raise IssuerAway("the issuer failed too often, and is asked again in some seconds")
            answer: dict[str, Any] | IssuerAway = self._pool.apply(self._ask, (text,))
        finally:
            self._free.release()
        if isinstance(answer, IssuerAway):
            self._circuit.failed()
            self._outage.down(
                str(answer), "clients with tokens are refused (0x88), but those it was asked about lately"
            )
            raise answer
        self._circuit.succeeded()
        self._outage.up()
        return answer

    def _ask(self, text: bytes) -> dict[str, Any] | IssuerAway:
        """In a thread, where gevent prints what is raised: so it is returned."""
        headers = {"Authorization": self._authorization, "Content-Type": "application/x-www-form-urlencoded"}
        form = urlencode({"token": text.decode(), "token_type_hint": "access_token"}).encode()
        try:
            status, _, content = self._endpoint.ask(headers, form)
            answer = json.loads(content)
        except IssuerAway as away:
            return away
        except (ValueError, RecursionError):
            return IssuerAway(f"{self._settings.url} answered what is no JSON")
        if status != 200 or not isinstance(answer, dict) or not isinstance(answer.get("active"), bool):
            return IssuerAway(f'{self._settings.url} answered without "active"')
        return answer

    def _judge_answer(self, answer: dict[str, Any]) -> Token:
        if not answer["active"]:
            raise TokenRefused("its issuer says that it is not active")
        named = answer.get("aud")
        if self._settings.audience not in (named if isinstance(named, list) else [named]):
            raise TokenRefused("its aud does not name this broker")
        now = time.time()
        begins_at = instant(answer, "nbf")
        if begins_at is not None and begins_at > now + LEEWAY_S:
            raise TokenRefused("it is not yet valid (nbf)")
        token = token_of(answer, self._settings.user_claim)
        if token.ends_at <= now:
            raise TokenRefused("it has expired")
        return token
