"""B2.3: a JSON Web Token instead of a password. Whatever is not signed by a key in force, for us and of now, is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.broker import Broker, wait_for
from tests.mqtt import Client
from tests.security.guarded import Guarded, attempt, count, guarded, password_of
from tests.security.issuer import ALL_KEYS, AUDIENCE, ISSUER, PRIVATE, jwk, jwks, pem, token

SECTION = f'[auth.jwt]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n'
REFUSED, NOT_AUTHORIZED = 0x86, 0x87
LEEWAY_S = 30


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_bytes(ALL_KEYS)
    algorithms = 'algorithms = ["RS256", "PS256", "ES256", "EdDSA"]\n'
    more = f'{SECTION}{algorithms}keys_file = "{keys}"\n'
    with guarded("pattern readwrite of/%u\n", "alice", "bob", more=more, workers=1) as broker:
        broker.keys_file = keys  # type: ignore[attr-defined]
        yield broker


def refused(broker: Broker, password: bytes, cause: str, **options: object) -> None:
    """As a failed login by token, for `cause`, which only the operator is told; and no token is in the log."""
    before = count(broker, "auth_failures_total", '{method="jwt"}')
    answer = attempt(broker.port, password=password, **options)  # type: ignore[arg-type]
    assert answer.reason == REFUSED
    assert answer.properties.get("reason_string") in (None, "not authenticated")
    assert count(broker, "auth_failures_total", '{method="jwt"}') == before + 1
    line = json.loads([each for each in broker.log().splitlines() if '"connect_refused"' in each][-1])
    assert cause in line["cause"]
    assert password.decode() not in broker.log()


def in_parts(*parts: object) -> bytes:
    encoded = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
    return b".".join(base64.urlsafe_b64encode(each).rstrip(b"=") for each in encoded)


@pytest.mark.parametrize("algorithm", PRIVATE)
@pytest.mark.parametrize("version", [4, 5])
def test_a_good_token_lets_in(broker: Guarded, algorithm: str, version: int) -> None:
    """As the user it names, by whose rules the client is judged."""
    good = token(algorithm, kid="RS256" if algorithm == "PS256" else algorithm, aud=[AUDIENCE, "other"])
    with Client(broker.port, version) as client:
        client.connect("c", user="", password=good)
        assert broker.get("/v1/clients/c")[1]["user"] == "alice"
        assert client.subscribe("of/alice").reasons == [0]
        assert client.subscribe("of/bob").reasons == [0x80 if version == 4 else NOT_AUTHORIZED]
        client.publish("of/alice", b"mine")
        assert client.take().payload == b"mine"


def test_the_name_in_connect_is_that_of_the_token(broker: Guarded) -> None:
    assert attempt(broker.port, user="alice", password=token()).reason == 0
    assert attempt(broker.port, password=token()).reason == 0
    refused(broker, token(), "another user", user="bob")
    refused(broker, token(sub="bob"), "another user", user="alice")
    assert attempt(broker.port, 4, user="bob", password=token()).reason == 4


def forged() -> dict[str, tuple[bytes, str]]:
    header, body, signature = token().split(b".")
    payload = base64.urlsafe_b64decode(body + b"==")
    stranger = ec.generate_private_key(ec.SECP256R1())
    confused = in_parts({"alg": "HS256", "typ": "JWT", "kid": "RS256"}, payload)
    by_pem = hmac.digest(pem(PRIVATE["RS256"]), confused, hashlib.sha256)
    return {
        "by a stranger": (token(key=stranger), "signature is wrong"),
        "another body": (header + b"." + in_parts({"sub": "root"}) + b"." + signature, "signature is wrong"),
        "cut": (header + b"." + body + b"." + signature[:-4], ""),
        "without signature": (header + b"." + body + b".", "signature is wrong"),
        "alg none": (in_parts({"alg": "none"}, payload) + b".", "'none' is not one of"),
        "alg None": (in_parts({"alg": None}, payload) + b".", "is not one of"),
        "alg nOnE with kid": (in_parts({"alg": "nOnE", "kid": "ES256"}, payload) + b".", "is not one of"),
        "HS256 by the public key": (confused + b"." + in_parts(by_pem), "'HS256' is not one of"),
        "alg of another key": (token("ES256", kid="RS256"), "not that of its key"),
        "alg not configured": (token("RS512", key=PRIVATE["RS256"], kid="RS256"), "'RS512' is not one of"),
        "its own key": (token(key=stranger, header={"jwk": jwk(stranger, "ES256")}), "signature is wrong"),
        "kid is no text": (in_parts({"alg": "ES256", "kid": 1}, payload, b"x"), "Key ID"),
        "kid is a path": (token(kid="../../dev/null"), "no key has its kid"),
        "critical header": (in_parts({"alg": "ES256", "kid": "ES256", "crit": ["x"], "x": 1}, payload, b"x"), "critical"),
        "payload elsewhere": (in_parts({"alg": "ES256", "b64": False, "crit": ["b64"]}) + b".." + signature, "critical"),
    }  # fmt: skip


def untimely() -> dict[str, tuple[bytes, str]]:
    now = time.time()
    return {
        "another audience": (token(aud="billing"), "udience"),
        "no audience": (token(aud=None), '"aud"'),
        "another issuer": (token(iss="https://id.example.org"), "ssuer"),
        "no issuer": (token(iss=None), '"iss"'),
        "expired": (token(exp=now - LEEWAY_S - 2), "expired"),
        "no exp": (token(exp=None), '"exp"'),
        "exp is text": (token(exp=str(int(now + 60))), "no moment"),
        "exp is infinite": (token(exp=float("inf")), ""),
        "exp is not a number": (token(exp=float("nan")), ""),
        "exp beyond time": (token(exp=1e300), "no moment"),
        "not yet": (token(nbf=now + LEEWAY_S + 20), "not yet valid"),
        "made tomorrow": (token(iat=now + 86_400), "not yet valid"),
        "no user": (token(sub=None), "no user's name"),
        "empty user": (token(sub=""), "no user's name"),
        "user is a number": (token(sub=7), "ubject"),
        "user with a newline": (token(sub="alice\nbob"), "no user's name"),
        "user with a NUL": (token(sub="alice\0"), "no user's name"),
    }


def bad() -> dict[str, tuple[bytes, str]]:
    """Made when they are needed: they are about the time of day."""
    return forged() | untimely()


@pytest.mark.parametrize("name", bad())
def test_a_bad_token_is_refused(broker: Guarded, name: str) -> None:
    password, cause = bad()[name]
    refused(broker, password, cause)
    assert attempt(broker.port, 4, user="alice", password=password).reason == 4
    assert broker.errors() == []


def test_a_clock_may_differ_by_30_s(broker: Guarded) -> None:
    now = time.time()
    assert attempt(broker.port, password=token(exp=now - LEEWAY_S + 10)).reason == 0
    assert attempt(broker.port, password=token(nbf=now + LEEWAY_S - 10)).reason == 0


def test_passwords_beside_tokens(broker: Guarded) -> None:
    """What looks like a token is judged as one only, all else by the password file."""
    assert attempt(broker.port, user="alice", password=password_of("alice")).reason == 0
    tower = in_parts(b'{"alg":"ES256","kid":' + b"[" * 6000 + b"]" * 6000 + b"}", {}, b"x")
    no_tokens = [b"guess", b"a.b.c", b"..", in_parts({"typ": "JWT"}, {}, b"x"), in_parts([], {}, b"x"), tower]
    for other in (*no_tokens, token(more="x" * 15_000)):  # the last one is longer than a token may be
        assert attempt(broker.port, user="alice", password=other).reason == REFUSED
        assert attempt(broker.port, password=other).reason == NOT_AUTHORIZED
    assert attempt(broker.port).reason == NOT_AUTHORIZED
    broker.write_users("bob")  # a token's user has no password that could be taken away
    with Client(broker.port) as client:
        client.connect("c", password=token())
        assert broker.reload() == []
        client.nothing()
    broker.write_users("alice", "bob")
    assert broker.reload() == []


# -- its end ----------------------------------------------------------------------------------------------------------


def test_a_connection_ends_with_its_token(broker: Guarded) -> None:
    clients = [Client(broker.port, version) for version in (4, 5)]
    other = Client(broker.port)
    other.connect("other", password=token())
    for version, client in zip((4, 5), clients, strict=True):
        client.connect(f"v{version}", user="", password=token(exp=time.time() - LEEWAY_S + 2))
    assert clients[0].expect_closed(5) is None
    last = clients[1].expect_closed(5)
    assert last is not None
    assert last.reason == NOT_AUTHORIZED
    wait_for(lambda: broker.log().count("the token has expired") == 2)
    other.nothing()
    other.close()


def test_a_reload_takes_keys_away_and_brings_others(broker: Guarded) -> None:
    keys: Path = broker.keys_file  # type: ignore[attr-defined]
    with Client(broker.port) as loses, Client(broker.port, 4) as closed, Client(broker.port) as stays:
        loses.connect("loses", password=token("RS256"))
        closed.connect("closed", user="", password=token("RS256"))
        stays.connect("stays", password=token("ES256"))
        for bad in (b"", b"{}", b"no key", jwks(jwk(ec.generate_private_key(ec.SECP384R1()), "x"))):
            keys.write_bytes(bad)
            assert str(keys) in broker.reload(409)[0]
            assert attempt(broker.port, password=token("RS256")).reason == 0
        keys.write_bytes(jwks(jwk(PRIVATE["ES256"], "renamed")))
        assert broker.reload() == []
        last = loses.expect_closed(5)
        assert last is not None
        assert last.reason == NOT_AUTHORIZED
        assert closed.expect_closed(5) is None
        stays.nothing()
    refused(broker, token("RS256"), "no key has its kid")
    assert attempt(broker.port, password=token("ES256", kid="renamed")).reason == 0
    keys.write_bytes(pem(PRIVATE["RS256"]) + pem(PRIVATE["EdDSA"]))  # which have no kid
    assert broker.reload() == []
    assert attempt(broker.port, password=token("RS256", kid="any")).reason == 0
    assert attempt(broker.port, password=token("EdDSA", kid=None)).reason == 0
    refused(broker, token("ES256"), "not that of its key")
    keys.write_bytes(ALL_KEYS)
    assert broker.reload() == []


# -- what is not a key, and what is no configuration ------------------------------------------------------------------


def test_keys_that_do_not_fit_are_left_out() -> None:
    from node.auth.keys import parse_jwks

    allowed = ("RS256", "ES256", "EdDSA")
    good = jwk(PRIVATE["ES256"], "good")
    unfit = [
        jwk(PRIVATE["ES256"], "x", use="enc"), jwk(PRIVATE["ES256"], "x", key_ops=["sign"]),
        jwk(PRIVATE["ES256"], "x", alg="RS256"), jwk(PRIVATE["RS256"], "x", alg="HS256"),
        jwk(PRIVATE["RS256"], "x", kty="EC"), {**good, "d": "AQAB"}, {**good, "kid": 7}, {**good, "x": "AQAB"},
        jwk(rsa.generate_private_key(65537, 1024), "x"), jwk(ec.generate_private_key(ec.SECP384R1()), "x"),
        {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 32).decode(), "kid": "x"}, {"kty": "OKP"}, {}, [], "x", None,
    ]  # fmt: skip
    found = parse_jwks(json.dumps({"keys": [*unfit, good]}).encode(), allowed)
    assert [(key.kid, key.algorithms) for key in found] == [("good", ("ES256",))]
    for nothing in (jwks(*unfit), jwks(), b"[]", b"[" * 100_000, jwks(*[good] * 101)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"none of|no J|101"):
            parse_jwks(nothing, allowed)
