"""Keys that verify JSON Web Tokens: read from PEM, a JWKS or a secret's file, each with the algorithms that fit it.

A key of a JWKS that is not for verifying, not of a fitting type or too weak is left out; without any key left, or with a PEM
block that is none, all is refused. A public key never verifies HS*, and a secret nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from node.auth.files import AuthFileError, read_bytes, read_secret
from node.config import Jwt

KEYS_MAX = 100
_RSA_BITS_MIN = 2048
_SECRET_BYTES_MIN = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518, 3.2
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)
_REMEDY = "Correct it, then: mqnode config check"


@dataclass(frozen=True, slots=True)
class Key:
    id: str  # the same for the same key
    kid: str | None  # as the issuer calls it; None: it may be that of any token
    algorithms: tuple[str, ...]
    material: Any = field(repr=False)  # a public key of cryptography, or bytes


def load(settings: Jwt) -> tuple[Key, ...]:
    """The keys of keys_file or secret_file. Raises AuthFileError."""
    if settings.secret_file:
        return (_read_secret(settings.secret_file, settings.algorithms),)
    content = read_bytes(settings.keys_file)
    try:
        if content.lstrip().startswith(b"{"):
            return parse_jwks(content, settings.algorithms)
        return _parse_pem(content, settings.algorithms)
    except ValueError as error:
        raise AuthFileError(settings.keys_file, None, str(error), _REMEDY) from None


def parse_jwks(content: bytes, allowed: tuple[str, ...]) -> tuple[Key, ...]:
    """RFC 7517. Raises ValueError if there is no key of use in it."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError('it is no JWKS: {"keys": [...]}')
    if len(members) > KEYS_MAX:
        raise ValueError(f"it has {len(members)} keys, {KEYS_MAX} are allowed")
    keys = tuple(key for member in members if (key := _parse_jwk(member, allowed)) is not None)
    if not keys:
        raise ValueError(f"none of its {len(members)} keys is a public key that verifies {', '.join(allowed)}")
    return keys


def _parse_jwk(member: Any, allowed: tuple[str, ...]) -> Key | None:
    if not isinstance(member, dict) or "d" in member or member.get("use", "sig") != "sig":
        return None
    operations, kid = member.get("key_ops", ["verify"]), member.get("kid")
    if not isinstance(operations, list) or "verify" not in operations or not isinstance(kid, str | None):
        return None
    try:
        material = jwt.PyJWK({**member, "alg": None}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm):
        return None
    named = member.get("alg")
    algorithms = tuple(each for each in _fitting(material, allowed) if named in (None, each))
    return Key(_id(material), kid, algorithms, material) if algorithms else None


def _parse_pem(content: bytes, allowed: tuple[str, ...]) -> tuple[Key, ...]:
    keys = []
    for block in _PEM.finditer(content):
        if block[1] != b"PUBLIC KEY":
            raise ValueError(f"it holds a {block[1].decode().lower()}, and public keys only are of use here")
        try:
            material = serialization.load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("a public key in it cannot be read") from None
        algorithms = _fitting(material, allowed)
        if not algorithms:
            raise ValueError(f"a public key in it is too short or of a type that verifies none of {', '.join(allowed)}")
        keys.append(Key(_id(material), None, algorithms, material))
    if not 1 <= len(keys) <= KEYS_MAX:
        raise ValueError(f"it is no JWKS and holds {len(keys)} public keys in PEM; 1 to {KEYS_MAX} are needed")
    return tuple(keys)


def _fitting(material: Any, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """What of `allowed` this public key can verify; nothing, if it is none."""
    match material:
        case rsa.RSAPublicKey() if material.key_size >= _RSA_BITS_MIN:
            return tuple(each for each in allowed if each.startswith(("RS", "PS")))
        case ec.EllipticCurvePublicKey():
            return tuple(each for each in allowed if each == _CURVES.get(material.curve.name))
        case ed25519.Ed25519PublicKey():
            return tuple(each for each in allowed if each == "EdDSA")
    return ()


def _id(material: Any) -> str:
    encoded = material.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def _read_secret(path: str, allowed: tuple[str, ...]) -> Key:
    secret = read_secret(path)
    needed = max(_SECRET_BYTES_MIN[each] for each in allowed)
    if len(secret) < needed:
        text = f"the secret has {len(secret)} bytes and could be guessed, {needed} are needed"
        raise AuthFileError(path, None, text, f"Make a new one: openssl rand -hex {needed}")
    return Key(hashlib.sha256(secret).hexdigest(), None, allowed, secret)
