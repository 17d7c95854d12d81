"""SCRAM-SHA-256, the server's side (RFC 5802, RFC 7677): a state machine that takes messages and answers them.

    first  --client-first-->  final  --client-final, proof fits-->  done (`user` is proven)
    any other message, in any state  -->  failed, ScramError

Channel binding is not offered. No socket, no clock, no files; the nonce comes from outside.
A user without verifier is answered as one that has it, and fails at the end.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import stringprep
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

METHOD = "SCRAM-SHA-256"
ROUNDS = 16_384  # of new verifiers; the client pays for them at each login, and small devices log in too
_ROUNDS_MIN, _ROUNDS_MAX = 4096, 10_000_000  # RFC 7677 section 4; above: a client would never finish
_MESSAGE_BYTES_MAX = 4096
_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d{1,8}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
_FIRST = re.compile(r"((?:n|y),(?:a=([^,]+))?,)(n=([^,]+),r=([\x21-\x2b\x2d-\x7e]+)(?:,.*)?)")
_FINAL = re.compile(r"(c=([A-Za-z0-9+/=]+),r=([\x21-\x2b\x2d-\x7e]+)(?:,.*)?),p=([A-Za-z0-9+/=]+)")


class ScramError(Exception):
    """The exchange failed. The text is for the log, the client is only told that it is not authorized."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What the server keeps of a password: proofs can be checked with it, but not made."""

    rounds: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def encode(self) -> str:
        """The form in the password file (the one PostgreSQL uses)."""
        salt, stored_key, server_key = (_b64(part) for part in (self.salt, self.stored_key, self.server_key))
        return f"{METHOD}${self.rounds}:{salt}${stored_key}:{server_key}"


def parse_verifier(text: str) -> Verifier:
    """Raises ValueError, whose text holds nothing of `text`."""
    found = _VERIFIER.fullmatch(text)
    if found is None:
        raise ValueError(f"the verifier is not {METHOD}$ROUNDS:SALT$STORED:SERVER (or is cut off)")
    try:
        salt, stored_key, server_key = (base64.b64decode(part, validate=True) for part in found.group(2, 3, 4))
    except binascii.Error:
        raise ValueError("the verifier's parts are not base64 (or are cut off)") from None
    if not _ROUNDS_MIN <= int(found[1]) <= _ROUNDS_MAX:
        raise ValueError(f"the verifier's rounds are {_ROUNDS_MIN} to {_ROUNDS_MAX}")
    if len(salt) < 8 or len(stored_key) != 32 or len(server_key) != 32:
        raise ValueError("the verifier's parts have the wrong length (cut off?)")
    return Verifier(int(found[1]), salt, stored_key, server_key)


def make_verifier(password: str, salt: bytes, rounds: int = ROUNDS) -> Verifier:
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, rounds)
    return Verifier(rounds, salt, _sha256(_hmac(salted, b"Client Key")), _hmac(salted, b"Server Key"))


def decoy_verifier(secret: bytes, user: str) -> Verifier:
    """For a user that has none: the same answer each time it is asked, as a real one would give."""
    parts = [_hmac(secret, label + user.encode()) for label in (b"salt:", b"stored:", b"server:")]
    return Verifier(ROUNDS, parts[0][:16], parts[1], parts[2])


class State(Enum):
    FIRST = "first"
    FINAL = "final"
    DONE = "done"
    FAILED = "failed"


class ScramServer:
    """One exchange: `step` for each message of the client; `user` is set once, when it is proven."""

    def __init__(self, verifier_of: Callable[[str], Verifier | None], decoy_secret: bytes, nonce: str) -> None:
        self.state = State.FIRST
        self.user: str | None = None
        self._verifier_of = verifier_of
        self._decoy_secret = decoy_secret
        self._nonce = nonce

    @property
    def finished(self) -> bool:
        return self.state is State.DONE

    def step(self, message: bytes) -> bytes:
        """The answer to the client's `message`. Raises ScramError, after which nothing can succeed any more."""
        state, self.state = self.state, State.FAILED
        try:
            text = message.decode()
        except UnicodeDecodeError:
            raise ScramError("the message is not UTF-8") from None
        if len(message) > _MESSAGE_BYTES_MAX:
            raise ScramError("the message is too long")
        match state:
            case State.FIRST:
                answer = self._first(text)
                self.state = State.FINAL
            case State.FINAL:
                answer = self._final(text)
                self.state = State.DONE
            case _:
                raise ScramError(f"no message may follow in state {state.value}")
        return answer.encode()

    def _first(self, text: str) -> str:
        found = _FIRST.fullmatch(text)
        if found is None:
            raise ScramError("not a client-first message without channel binding")
        self._header, authorization_id, client_first, user, client_nonce = found.groups()
        self._claimed = _decode_name(user)
        if authorization_id is not None and _decode_name(authorization_id) != self._claimed:
            raise ScramError("one user may not act as another")
        known = self._verifier_of(self._claimed)
        self._known = known is not None
        self._verifier = known or decoy_verifier(self._decoy_secret, self._claimed)
        self._both_nonces = client_nonce + self._nonce
        answer = f"r={self._both_nonces},s={_b64(self._verifier.salt)},i={self._verifier.rounds}"
        self._exchanged = f"{client_first},{answer}"
        return answer

    def _final(self, text: str) -> str:
        found = _FINAL.fullmatch(text)
        if found is None:
            raise ScramError("not a client-final message")
        without_proof, binding, nonce, proof_text = found.groups()
        if binding != _b64(self._header.encode()):
            raise ScramError("the channel binding is not the one of the first message")
        if not hmac.compare_digest(nonce, self._both_nonces):
            raise ScramError("the nonce is not the one of this exchange")
        try:
            proof = base64.b64decode(proof_text, validate=True)
        except binascii.Error:
            raise ScramError("the proof is not base64") from None
        signed = f"{self._exchanged},{without_proof}".encode()
        signature = _hmac(self._verifier.stored_key, signed)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=False))
        fits = hmac.compare_digest(_sha256(client_key), self._verifier.stored_key)
        if not (fits and self._known and len(proof) == len(signature)):
            raise ScramError("the proof does not fit")
        self.user = self._claimed
        return f"v={_b64(_hmac(self._verifier.server_key, signed))}"


def saslprep(text: str) -> str:
    """RFC 4013, for stored strings: what differs only in its writing becomes the same. Raises ValueError."""
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    result = unicodedata.normalize("NFKC", mapped)
    if not result or any(_is_prohibited(c) for c in result):
        raise ValueError("the password is empty or holds control, private or unassigned characters")
    right_to_left = [stringprep.in_table_d1(c) for c in result]
    if any(right_to_left) and not (
        right_to_left[0] and right_to_left[-1] and not any(stringprep.in_table_d2(c) for c in result)
    ):
        raise ValueError("the password mixes directions of writing")
    return result


def _is_prohibited(c: str) -> bool:
    return (
        stringprep.in_table_a1(c)
        or stringprep.in_table_c12(c)
        or stringprep.in_table_c21_c22(c)
        or any(table(c) for table in (stringprep.in_table_c3, stringprep.in_table_c4, stringprep.in_table_c5))
        or any(table(c) for table in (stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8))
        or stringprep.in_table_c9(c)
    )


def _decode_name(text: str) -> str:
    if re.search(r"=(?!2C|3D)", text):
        raise ScramError("'=' in a name is written =3D, ',' is written =2C")
    return text.replace("=2C", ",").replace("=3D", "=")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
