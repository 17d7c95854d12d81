"""JSON Web Tokens: is this one signed by a key in force, for us, and of now? `verify` may run in threads.

Holds the keys in force, replaced as a whole: by a reload of their file, or by who fetches them (jwks.py).
"""

from __future__ import annotations

import jwt

from node.auth.keys import Key, load
from node.auth.tokens import LEEWAY_S, TOKEN_BYTES_MAX, Token, TokenRefused, UnknownKey, token_of
from node.config import Jwt

_REQUIRED = ["exp", "aud", "iss"]


class JwtTokens:
    """Raises AuthFileError if the file of the keys cannot be used."""

    def __init__(self, settings: Jwt) -> None:
        self._settings = settings
        self.keys: tuple[Key, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Read the file anew. Raises AuthFileError; then the old keys stay."""
        if not self._settings.jwks_url:
            self.keys = load(self._settings)

    def holds(self, token: Token) -> bool:
        """Is its key in force still?"""
        return any(key.id == token.key for key in self.keys)

    def verify(self, text: bytes) -> Token:
        """Raises TokenRefused."""
        if len(text) > TOKEN_BYTES_MAX:
            raise TokenRefused(f"it is longer than {TOKEN_BYTES_MAX} bytes")
        try:
            return self._verify(text)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TokenRefused(f"{error}"[:200]) from None  # whatever a stranger's token makes of the libraries

    def _verify(self, text: bytes) -> Token:
        header = jwt.get_unverified_header(text)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.algorithms:
            raise TokenRefused(f"its algorithm {str(algorithm)[:16]!r} is not one of auth.jwt.algorithms")
        if "crit" in header or "b64" in header:
            raise TokenRefused("it has critical headers, and none is supported")
        known = [key for key in self.keys if None in (kid, key.kid) or key.kid == kid]
        if not known:
            raise UnknownKey(f"no key has its kid {str(kid)[:64]!r}")
        fitting = [key for key in known if algorithm in key.algorithms]
        if not fitting:
            raise TokenRefused("its algorithm is not that of its key")
        for key in fitting:
            try:
                claims = jwt.decode(
                    text, key.material, algorithms=[algorithm], audience=self._settings.audience,
                    issuer=self._settings.issuer, leeway=LEEWAY_S, options={"require": _REQUIRED},
                )  # fmt: skip
            except jwt.InvalidSignatureError:
                continue
            return token_of(claims, self._settings.user_claim, key.id)
        raise TokenRefused("its signature is wrong")
