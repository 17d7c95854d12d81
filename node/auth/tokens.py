"""What a token is: a user until a moment. And what all kinds of tokens have in common; must not know who signs or is asked."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass
from typing import Any

LEEWAY_S = 30.0  # clocks of issuer and broker may differ so much
TOKEN_BYTES_MAX = 16_384
_USER_LETTERS_MAX = 1024
_JWT = re.compile(rb"([A-Za-z0-9_=-]+)\.[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*")


class TokenRefused(Exception):
    """The text is the cause, for the operator; the client is only told that it is not authenticated."""


class UnknownKey(TokenRefused):
    """No key is there by which it could be verified; perhaps it is newer than what we have."""


class IssuerAway(Exception):
    """Nobody can tell now whether the token is good; the text is the cause."""


@dataclass(frozen=True, slots=True)
class Token:
    user: str
    ends_at: float  # wall clock; leeway included
    key: str = ""  # id of the key that verified it; "": its issuer was asked


def looks_like_jwt(password: bytes) -> bool:
    """Three parts of base64url, the first one a JSON object with "alg"."""
    found = _JWT.fullmatch(password) if len(password) <= TOKEN_BYTES_MAX else None
    if found is None:
        return False
    try:
        header = json.loads(base64.urlsafe_b64decode(found[1] + b"=="))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


def token_of(claims: dict[str, Any], user_claim: str, key: str = "") -> Token:
    """Whom `claims`, which are proven, speak of. Raises TokenRefused."""
    ends_at = instant(claims, "exp")
    if ends_at is None:
        raise TokenRefused("it has no exp")
    user = claims.get(user_claim)
    if not isinstance(user, str) or not user or len(user) > _USER_LETTERS_MAX or not user.isprintable():
        raise TokenRefused(f"its claim {user_claim} is no user's name")
    return Token(user, ends_at + LEEWAY_S, key)


def instant(claims: dict[str, Any], name: str) -> float | None:
    """A claim that is a moment; None: it is not there. Raises TokenRefused."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e15:
        raise TokenRefused(f"its {name} is no moment")
    return float(value)
