"""Clients that log in by a token: who judges it, the user it names, and the end of the connection when it ends.

The password of CONNECT is the token. One that looks like a JWT goes to auth.jwt if that is there; others, and all without it, to
auth.introspection, but those that come with a user name where there is a password file: they are passwords. A token that was
good holds until its `exp`, or until its key is taken away (both 0x87). Greenlets judge; what takes CPU or waits runs in threads.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import gevent

from node.auth.tokens import IssuerAway, Token, TokenRefused, UnknownKey, looks_like_jwt
from node.core.loop import Connection
from node.core.wire import Connect
from node.mqtt import client as codes

if TYPE_CHECKING:
    from node.auth.introspection import Introspector
    from node.auth.jwks import Jwks
    from node.auth.jwt_tokens import JwtTokens
    from node.worker.worker import Worker

Method = Literal["jwt", "introspection"]
_STALE_MAX = 1024


class Tokens:
    """Raises AuthFileError if a file of keys, secret or authorities cannot be used."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._auth = worker.config.auth
        self._live: dict[int, tuple[Connection, Token]] = {}  # by the connection's number
        self._ends: list[tuple[float, int]] = []  # heap: when, number; some are over already
        self.jwt: JwtTokens | None = None
        self.jwks: Jwks | None = None
        self.introspector: Introspector | None = None
        if self._auth.jwt.on:
            from node.auth.jwt_tokens import JwtTokens  # it takes PyJWT

            self.jwt = JwtTokens(self._auth.jwt)
        if self._auth.jwt.jwks_url:
            from node.auth.jwks import Jwks

            assert self.jwt is not None
            self.jwks = Jwks(self._auth.jwt, self.jwt, self._end_keyless, worker.log)
            gevent.spawn(self.jwks.run)
        if self._auth.introspection.on:
            from node.auth.introspection import Introspector

            self.introspector = Introspector(self._auth.introspection, worker.log)

    def method(self, packet: Connect) -> Method | None:
        """What judges this CONNECT; None: it shows no token."""
        if not packet.password or (self.jwt is None and self.introspector is None):
            return None
        is_jwt = looks_like_jwt(packet.password)
        if is_jwt and self.jwt is not None:
            return "jwt"
        is_password = bool(packet.user) and bool(self._auth.password_file) and not is_jwt
        return "introspection" if self.introspector is not None and not is_password else None

    def judge(self, connection: Connection, packet: Connect, method: Method) -> None:
        """Admit or refuse it, later."""
        self.worker.loop.awaits(gevent.spawn(self._judge, connection, packet, method))

    def _judge(self, connection: Connection, packet: Connect, method: Method) -> None:
        connects = self.worker.connects
        try:
            token = self._ask(packet.password, method)
            if packet.user not in (None, "", token.user):
                raise TokenRefused("CONNECT names another user than the token")
        except TokenRefused as error:
            if not connection.is_closing:
                connects.deny(connection, codes.BAD_USER_OR_PASSWORD, method, f"token refused: {error}")
        except IssuerAway as error:
            connects.refuse(connection, codes.SERVER_UNAVAILABLE, "tokens cannot be judged now", str(error))
        else:
            if not connection.is_closing:
                connection.certified = True  # as with a certificate: whatever becomes of passwords
                self._remember(connection, token)
                connects.admit(connection, token.user)

    def _ask(self, password: bytes, method: Method) -> Token:
        if method == "introspection":
            assert self.introspector is not None
            return self.introspector.judge(password)
        try:
            return self._verify(password)
        except UnknownKey:
            if self.jwks is None:
                raise
        self.jwks.refresh_for_unknown()
        return self._verify(password)

    def _verify(self, password: bytes) -> Token:
        assert self.jwt is not None
        if self.jwks is not None and not self.jwt.keys:
            self.jwks.wait()
            if not self.jwt.keys:
                raise IssuerAway("auth.jwt.jwks_url has shown no keys yet")
        token: Token | TokenRefused = self.worker.pool.apply(_outcome, (self.jwt.verify, password))
        if isinstance(token, TokenRefused):
            raise token
        if not self.jwt.holds(token):
            raise TokenRefused("its key was taken away meanwhile")
        return token

    # -- its end ------------------------------------------------------------------------------------------------------

    def _remember(self, connection: Connection, token: Token) -> None:
        self._live[connection.number] = (connection, token)
        heapq.heappush(self._ends, (token.ends_at, connection.number))
        if len(self._ends) > 2 * len(self._live) + _STALE_MAX:  # of connections that were over before their token
            self._ends = [(token.ends_at, number) for number, (_, token) in self._live.items()]
            heapq.heapify(self._ends)

    def left(self, number: int) -> None:
        """That connection is over."""
        self._live.pop(number, None)

    def tick(self) -> None:
        """End the connections whose token has ended."""
        now = time.time()
        while self._ends and self._ends[0][0] <= now:
            _, number = heapq.heappop(self._ends)
            if number in self._live:
                self.worker.ends.drop(self._live[number][0], codes.NOT_AUTHORIZED, "the token has expired")

    def reload(self) -> None:
        """Read keys anew, and end the connections whose key is gone. Raises AuthFileError; then all stays as it is."""
        if self.jwt is not None:
            self.jwt.reload()
            self._end_keyless()
        if self.jwks is not None:
            gevent.spawn(self.jwks.refresh)
        if self.introspector is not None:
            self.introspector.reload()

    def _end_keyless(self) -> None:
        for connection, token in list(self._live.values()):
            if token.key and self.jwt is not None and not self.jwt.holds(token):
                self.worker.ends.drop(connection, codes.NOT_AUTHORIZED, "the key of the token was taken away")


def _outcome(judge: Callable[[bytes], Token], password: bytes) -> Token | TokenRefused:
    """What `judge` returns or raises: gevent prints what is raised in a thread."""
    try:
        return judge(password)
    except TokenRefused as refused:
        return refused
