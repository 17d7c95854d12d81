"""Join tokens: the one line that lets one more host into the cluster, once, for a while. Pure: time and randomness are arguments.

A token `mqn1-…` holds the cluster's id, where to join, the public key of the member that answers there (so nobody can stand
between) and a 128-bit secret. The secret never crosses the network: the joiner proves it by an HMAC over both public keys and the
member's nonce. The member keeps the token's number and a key derived from the secret. To a host that used it the token is
known again until it expires, for the first answer may have been lost.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

import msgspec
from zmq.utils import z85

PREFIX = "mqn1-"
CLUSTER_ID_BYTES, KEY_BYTES, SECRET_BYTES, SUM_BYTES, NONCE_BYTES = 16, 32, 16, 4, 16
ISSUED_MAX = 1000  # outstanding ones
LATE_MS = 600_000
KEPT_MS = 24 * 3600 * 1000  # a used or expired one is known as such for a day


class TokenError(ValueError):
    """The token cannot be used; the text says why and what to do."""


class Token(msgspec.Struct, frozen=True):
    cluster_id: bytes
    address: str  # HOST:PORT of the member's join socket
    public_key: str  # the member's, Z85
    secret: bytes

    def __repr__(self) -> str:  # no secret in logs
        return f"Token({self.number.hex()})"

    @property
    def number(self) -> bytes:
        return hashlib.sha256(b"mqnode token" + self.secret).digest()[:8]

    @property
    def key(self) -> bytes:
        return hmac.digest(self.secret, b"mqnode join", "sha256")

    def text(self) -> str:
        content = self.cluster_id + z85.decode(self.public_key) + self.secret + self.address.encode()
        return PREFIX + base64.urlsafe_b64encode(content + _sum(content)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> Token:
        broken = TokenError(
            "this is no join token, or a part of it is missing. On a member: mqnode cluster token create"
        )
        text = text.strip()
        if not text.startswith(PREFIX) or not text.isascii():
            raise broken
        encoded = text[len(PREFIX) :]
        try:
            content = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise broken from None
        content, check = content[:-SUM_BYTES], content[-SUM_BYTES:]
        key_at, secret_at = CLUSTER_ID_BYTES, CLUSTER_ID_BYTES + KEY_BYTES
        address_at = secret_at + SECRET_BYTES
        if len(content) <= address_at or check != _sum(content):
            raise broken
        public_key = z85.encode(content[key_at:secret_at]).decode()
        token = cls(content[:key_at], content[address_at:].decode(), public_key, content[secret_at:address_at])
        if token.text() != text:  # another spelling of the same bits
            raise broken
        return token


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:SUM_BYTES]


def proof(key: bytes, member_key: str, joiner_key: str, nonce: bytes) -> bytes:
    """What the joiner sends: it has the token, means this member, and is the host of this public key, now."""
    return hmac.digest(key, b"joiner" + member_key.encode() + joiner_key.encode() + nonce, "sha256")


class Issued(msgspec.Struct):
    """A token on the member that made it."""

    number: bytes
    key: bytes
    expires_ms: int
    used_by: str = ""  # the public key of the host that joined by it


class Tokens:
    """All that this member has made, kept by whoever holds `to_bytes()`."""

    def __init__(self, issued: list[Issued] | None = None) -> None:
        self._issued = {each.number: each for each in issued or ()}

    def issue(self, token: Token, ttl_s: int, now_ms: int) -> None:
        self._forget(now_ms)
        if len(self._issued) >= ISSUED_MAX:
            raise TokenError(
                f"{ISSUED_MAX} join tokens are outstanding, the most there can be. Wait until some expire."
            )
        self._issued[token.number] = Issued(token.number, token.key, now_ms + ttl_s * 1000)

    def withdraw(self, number: bytes) -> None:
        """Another one takes its place. A used one stays: its host may not know yet that it was let in."""
        if (issued := self._issued.get(number)) is not None and not issued.used_by:
            del self._issued[number]

    def expected(self, now_ms: int) -> bool:
        """May somebody come with a token of this host? Who comes late, or with one that is used, learns why it is none."""
        return any(now_ms < each.expires_ms + LATE_MS for each in self._issued.values())

    def check(self, number: bytes, given: bytes, member_key: str, joiner_key: str, nonce: bytes, now_ms: int) -> bool:
        """False: the host of `joiner_key` has used it already; True: it may now. TokenError: anybody else, or too late."""
        issued = self._issued.get(number)
        wanted = proof(issued.key if issued else b"", member_key, joiner_key, nonce)
        if not hmac.compare_digest(given, wanted) or issued is None:
            raise TokenError("wrong token: this host has made no such one. On a member: mqnode cluster token create")
        if issued.used_by and issued.used_by != joiner_key:
            raise TokenError("this token was used by another host. One host, one token: mqnode cluster token create")
        if now_ms >= issued.expires_ms:
            raise TokenError("this token has expired. On a member: mqnode cluster token create --ttl 1h")
        return not issued.used_by

    def use(self, number: bytes, joiner_key: str) -> None:
        """Store it before the host hears that it has joined."""
        self._issued[number].used_by = joiner_key

    def _forget(self, now_ms: int) -> None:
        self._issued = {number: each for number, each in self._issued.items() if now_ms < each.expires_ms + KEPT_MS}

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(list(self._issued.values()))

    @classmethod
    def from_bytes(cls, content: bytes) -> Tokens:
        return cls(msgspec.msgpack.decode(content, type=list[Issued]))
