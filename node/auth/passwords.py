"""The password file: its lines, the hashes in them, and whether a password fits one.

    user:HASH                    HASH: $argon2id$… (ours, PHC), $7$… and $6$… (mosquitto 2)
    user:HASH:SCRAM-SHA-256$…    the same, and the verifier for SCRAM

One line that is not understood refuses the file. Must not know connections, caches or listeners.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from argon2.low_level import Type, verify_secret

from node.auth.files import AuthFileError, read_lines
from node.auth.scram import Verifier, parse_verifier

# OWASP's minimum; more memory a login costs the worker's threads what it costs an attacker.
MEMORY_KIB, PASSES, LANES = 19_456, 2, 1
_MEMORY_KIB_MAX, _PASSES_MAX, _LANES_MAX = 1_048_576, 64, 16  # a line may ask for no more: each login would cost it
_PBKDF2_ROUNDS_MAX = 10_000_000
_QUICK_ROUNDS_MAX = 200  # of PBKDF2: a fifth of a millisecond; mosquitto's are 101
_SALT_BYTES_MIN, _ARGON2_BYTES_MIN, _SHA512_BYTES = 8, 16, 64
_ARGON2 = re.compile(r"\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")
_REMEDY = "Correct the line, or write the user anew: mqnode users passwd USER."
Parameters = tuple[int, int, int]  # memory in KiB, passes, lanes


class Malformed(ValueError):
    """Not a hash that we verify; the text says why and holds nothing of the line."""


@dataclass(frozen=True, slots=True)
class Argon2:
    parameters: Parameters
    encoded: bytes = field(repr=False)

    def fits(self, password: bytes) -> bool:
        try:
            return verify_secret(self.encoded, password, Type.ID)
        except VerificationError:
            return False

    @property
    def is_quick(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Sha512:
    """mosquitto's: PBKDF2 with `rounds`, or one salted round of SHA-512 where these are 0."""

    rounds: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    def fits(self, password: bytes) -> bool:
        if self.rounds:
            found = hashlib.pbkdf2_hmac("sha512", password, self.salt, self.rounds)
        else:
            found = hashlib.sha512(password + self.salt).digest()
        return hmac.compare_digest(found, self.digest)

    @property
    def is_quick(self) -> bool:
        """May a worker verify it at once, and not in a thread?"""
        return self.rounds <= _QUICK_ROUNDS_MAX


@dataclass(frozen=True, slots=True)
class Entry:
    hash: Argon2 | Sha512
    verifier: Verifier | None


@dataclass(frozen=True, slots=True)
class Password:
    """A new one, to be written as a hash with a salt of its own."""

    text: str = field(repr=False)
    is_random: bool = False  # of 144 bits: nobody guesses it, and a slow hash would protect nothing

    def hash(self) -> str:
        """$argon2id$, or $6$, one round of SHA-512, which a worker verifies in no time."""
        if not self.is_random:
            return PasswordHasher(PASSES, MEMORY_KIB, LANES).hash(self.text.encode())
        salt = secrets.token_bytes(12)
        digest = hashlib.sha512(self.text.encode() + salt).digest()
        return f"$6${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def generate() -> Password:
    return Password(secrets.token_urlsafe(18), is_random=True)


def load(path: str | Path) -> dict[str, Entry]:
    """The users of the file. Raises AuthFileError."""
    remedy = "Make one with: mqnode users add USER; the user of the service must be able to read it."
    users: dict[str, Entry] = {}
    for number, line in enumerate(read_lines(path, remedy), 1):
        if is_comment(line):
            continue
        try:
            user, entry = parse_line(line)
        except Malformed as error:
            raise AuthFileError(path, number, str(error), _REMEDY) from None
        if user in users:
            raise AuthFileError(path, number, "this user stands in it twice", "Delete one of the lines.")
        users[user] = entry
    if not users:
        raise AuthFileError(path, None, "there is no user in it, nobody could log in", remedy)
    return users


def is_comment(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def parse_line(line: str) -> tuple[str, Entry]:
    """User and entry of one line. Raises Malformed."""
    user, colon, rest = line.rstrip(" \t").partition(":")
    if not colon:
        raise Malformed("the line is not USER:HASH")
    check_user(user)
    encoded, colon, verifier = rest.partition(":")
    if colon:
        try:
            return user, Entry(_parse_hash(encoded), parse_verifier(verifier))
        except ValueError as error:
            raise Malformed(str(error)) from None
    return user, Entry(_parse_hash(encoded), None)


def check_user(user: str) -> None:
    """Raise Malformed if no line can be written for that name."""
    if not user or user != user.strip() or user.startswith("#") or ":" in user or not user.isprintable():
        raise Malformed("a user's name is printable, without ':' and outer blanks, and does not start with '#'")


def _parse_hash(encoded: str) -> Argon2 | Sha512:
    kind = encoded.split("$", 2)[1:2]
    if kind == ["argon2id"]:
        return _parse_argon2(encoded)
    parts = encoded.split("$")[2:]
    if kind == ["7"] and len(parts) == 3:
        if not (parts[0].isascii() and parts[0].isdigit() and 1 <= int(parts[0][:9]) <= _PBKDF2_ROUNDS_MAX):
            raise Malformed(f"the rounds of a $7$ hash are 1 to {_PBKDF2_ROUNDS_MAX}")
        return Sha512(int(parts[0]), *_salt_and_digest(parts[1], parts[2]))
    if kind == ["6"] and len(parts) == 2:
        return Sha512(0, *_salt_and_digest(parts[0], parts[1]))
    raise Malformed("the hash is none of $argon2id$…, $7$…, $6$… (or is cut off)")


def _parse_argon2(encoded: str) -> Argon2:
    found = _ARGON2.fullmatch(encoded)
    if found is None:
        raise Malformed("the $argon2id$ hash is not in PHC form (or is cut off)")
    memory, passes, lanes = int(found[1]), int(found[2]), int(found[3])
    if not (1 <= lanes <= _LANES_MAX and 8 * lanes <= memory <= _MEMORY_KIB_MAX and 1 <= passes <= _PASSES_MAX):
        raise Malformed("the $argon2id$ hash asks for more memory, passes or lanes than are allowed, or for none")
    salt, digest = (_decode(part + "=" * (-len(part) % 4)) for part in found.group(4, 5))
    if len(salt) < _SALT_BYTES_MIN or len(digest) < _ARGON2_BYTES_MIN:
        raise Malformed("salt or digest of the $argon2id$ hash is too short (cut off?)")
    return Argon2((memory, passes, lanes), encoded.encode())


def _salt_and_digest(salt: str, digest: str) -> tuple[bytes, bytes]:
    decoded = _decode(salt), _decode(digest)
    if len(decoded[0]) < _SALT_BYTES_MIN or len(decoded[1]) != _SHA512_BYTES:
        raise Malformed("salt or digest of the hash has the wrong length (cut off?)")
    return decoded


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("salt or digest of the hash is not base64 (or is cut off)") from None


def dummy_hash(users: dict[str, Entry]) -> Argon2:
    """What no password fits, at the price of most of `users`: an unknown user must take as long as a known one."""
    found = Counter(entry.hash.parameters for entry in users.values() if isinstance(entry.hash, Argon2))
    parameters = found.most_common(1)[0][0] if found else (MEMORY_KIB, PASSES, LANES)
    salt, digest = (base64.b64encode(secrets.token_bytes(size)).rstrip(b"=") for size in (16, 32))
    return Argon2(parameters, b"$argon2id$v=19$m=%d,t=%d,p=%d$%b$%b" % (*parameters, salt, digest))
