"""Who is it: the users in force, their reload, and the cache of credentials that were verified lately.

Order: certificate, then token (node/mqtt/tokens.py), then user and password; a bad answer is final. Nobody gets in without
a password where users are configured, known name or not. Passwords are kept nowhere; the cache holds keyed hashes of a key
that dies with the process.
`verify` may run in threads: all that it touches is replaced as a whole by a reload.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

from node.auth import passwords
from node.auth.passwords import Argon2, Entry
from node.auth.scram import METHOD, ScramServer, Verifier
from node.auth.security import anonymous_allowed
from node.config import Auth, Listener
from node.config.keys import CLUSTER

CACHED_MAX = 65_536  # verified credentials; a full cache is emptied


class _Users:
    """Those at one time, and what was verified against them."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self.entries = entries
        self.dummy: Argon2 = passwords.dummy_hash(self.entries)
        verifiers = [entry.verifier for entry in self.entries.values() if entry.verifier]
        self.has_verifiers = bool(verifiers)
        # Equal in all workers, or two connections would tell a decoy's salt from a real one.
        self.decoy_secret = hashlib.sha256(b"".join(each.server_key for each in verifiers)).digest()
        self.verified: dict[bytes, float] = {}  # keyed hash of a credential -> until when

    def verifier(self, user: str) -> Verifier | None:
        entry = self.entries.get(user)
        return entry.verifier if entry else None


class Authenticator:
    """Raises AuthFileError if `auth.password_file` cannot be used."""

    def __init__(self, auth: Auth, clock: Callable[[], float] = time.monotonic) -> None:
        self._auth = auth
        self._has_users = bool(auth.password_file) or auth.has_tokens
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._users = _Users({})
        self.reload()

    def reload(self) -> None:
        """Read the file anew and forget what was verified. Raises AuthFileError; then the old users stay. Those of the
        cluster come by `use`."""
        self.revoked: frozenset[str] = frozenset()  # users that the last change deleted or gave another password
        if self._auth.password_file not in ("", CLUSTER):
            self.use(passwords.load(self._auth.password_file))

    def use(self, now: dict[str, Entry]) -> None:
        """These users, from now on."""
        before, self._users = self._users.entries, _Users(now)
        self.revoked = frozenset(user for user, entry in before.items() if user not in now or now[user] != entry)

    def anonymous_allowed(self, listener: Listener) -> bool:
        return anonymous_allowed(self._auth, listener)

    def check(
        self, user: str | None, password: bytes | None, certificate_user: str | None, anonymous_allowed: bool
    ) -> bool | None:
        """Whether the client gets in, or None: ask `verify`, which takes tens of milliseconds."""
        if certificate_user is not None:
            return certificate_user != ""
        if not self._has_users:
            # Nobody can tell whether the name is right: harmless while nothing depends on it.
            return anonymous_allowed and (user is None or not self._auth.acl_file)
        if user is None:
            return anonymous_allowed and password is None
        if not password or not self._auth.password_file:
            return False
        entry = self._users.entries.get(user)
        if entry is not None and entry.hash.is_quick and entry.hash.fits(password):
            return True
        until = self._users.verified.get(self._credential(user, password))
        return True if until is not None and self._clock() < until else None

    def verify(self, user: str | None, password: bytes | None) -> bool:
        """Hash and compare, which blocks: call it in a thread. As slow for an unknown user as for a known one."""
        if user is None or not password:
            return False
        users = self._users
        entry = users.entries.get(user)
        fits = entry is not None and entry.hash.fits(password)
        if not fits:
            if entry is None or not isinstance(entry.hash, Argon2):
                users.dummy.fits(password)
            return False
        if users is not self._users:
            return self.verify(user, password)  # reloaded meanwhile: the new file decides
        if self._auth.cache_ttl_s:
            if len(users.verified) >= CACHED_MAX:
                users.verified.clear()
            users.verified[self._credential(user, password)] = self._clock() + self._auth.cache_ttl_s
        return True

    def scram(self, method: str) -> ScramServer | None:
        """An exchange of MQTT 5's enhanced authentication; None: we do not offer that method."""
        users = self._users
        if method != METHOD or not self._auth.scram or not users.has_verifiers:
            return None
        return ScramServer(users.verifier, users.decoy_secret, secrets.token_urlsafe(24))

    def _credential(self, user: str, password: bytes) -> bytes:
        name = user.encode()
        return hashlib.blake2b(b"%d:%b" % (len(name), name) + password, digest_size=16, key=self._key).digest()
