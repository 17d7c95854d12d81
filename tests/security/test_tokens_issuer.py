"""B2.3, B2.4: an issuer that is asked, for its keys (JWKS) or about each token (RFC 7662); whatever it does, no door opens."""

from __future__ import annotations

import base64
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from node.auth.endpoint import Endpoint
from node.auth.introspection import Circuit
from node.auth.tokens import IssuerAway
from tests.broker import Broker, busy, free_port, running, wait_for
from tests.mqtt import Client
from tests.security.guarded import attempt, count
from tests.security.issuer import ALL_KEYS, AUDIENCE, ISSUER, PRIVATE, IssuerServer, claims, jwk, jwks, token
from tests.unit.certificates import Authority

REFUSED, NOT_AUTHORIZED, UNAVAILABLE = 0x86, 0x87, 0x88
LEEWAY_S = 30
NEW_KEY = ed25519.Ed25519PrivateKey.generate()


class Host(Broker):
    """`shows` its keys by HTTP, `answers` about opaque tokens by HTTPS."""

    shows: IssuerServer
    answers: IssuerServer
    authority: Authority


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Begun while its issuer shows no keys."""
    folder = tmp_path_factory.mktemp("issuer")
    authority = Authority(folder)
    shows = IssuerServer()
    sans: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    answers = IssuerServer(authority.issue("issuer", "issuer", sans))
    secret = folder / "secret"
    secret.write_text("s3:cret/\n")
    secret.chmod(0o600)
    shows.status = 503
    host = Host(
        f'[auth.jwt]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\njwks_url = "{shows.url}"\n'
        f'[auth.introspection]\nurl = "{answers.url}"\nclient_id = "the broker"\nclient_secret_file = "{secret}"\n'
        f'audience = "{AUDIENCE}"\ntimeout_s = 1\nca_file = "{authority.path}"\n',
        auth="allow_anonymous = false", workers=1,
    )  # fmt: skip
    host.shows, host.answers, host.authority = shows, answers, authority
    try:
        host.start()
        assert attempt(host.port, password=token()).reason == UNAVAILABLE
        assert attempt(host.port, 4, user="", password=token()).reason == 3
        (away,) = host.errors()
        assert f"{shows.url} answered 503" in away
        shows.status = 200  # it is asked again, without a client's doing
        wait_for(lambda: '"jwks_back"' in host.log(), 10)
        yield host
    finally:
        host.close()
        shows.close()
        answers.close()


# -- JWKS -----------------------------------------------------------------------------------------------------------------


def test_the_same_keys_are_not_sent_twice(broker: Host) -> None:
    asked = len(broker.shows.statuses)
    assert broker.get("/v1/reload", method="POST")[0] == 200
    wait_for(lambda: broker.shows.statuses[asked:] == [304])
    assert attempt(broker.port, password=token()).reason == 0
    assert attempt(broker.port, password=token("RS256")).reason == 0


FAULTS: dict[str, dict[str, Any]] = {
    "status": {"status": 500},
    "redirect": {"status": 302},
    "no JSON": {"keys": b"<html>"},
    "no keys": {"keys": jwks()},
    "too many keys": {"keys": jwks(*[jwk(PRIVATE["ES256"], f"{n}") for n in range(101)])},
    "huge": {"keys": b'{"keys": []}' + b" " * 2_000_000},
    "dead": {"before": lambda: 1 / 0},
}


def test_the_last_good_keys_stay_in_force(broker: Host) -> None:
    """Whatever the issuer answers. The operator is told once, and once more when it is back."""
    log = len(broker.log())
    with Client(broker.port) as client:
        client.connect("stays", password=token())
        for fault in FAULTS.values():
            for name, value in fault.items():
                setattr(broker.shows, name, value)
            tried = broker.log().count('"jwks_')
            assert broker.get("/v1/reload", method="POST")[0] == 200
            wait_for(lambda tried=tried: broker.log().count('"jwks_') > tried, 10)
            broker.shows.status, broker.shows.keys, broker.shows.before = 200, ALL_KEYS, lambda: None
            assert attempt(broker.port, password=token()).reason == 0
            assert broker.get("/v1/reload", method="POST")[0] == 200
            wait_for(lambda tried=tried: broker.log().count('"jwks_') == tried + 2, 10)
        client.nothing(0.05)
    told = broker.log()[log:]
    assert told.count('"jwks_away"') == told.count('"jwks_back"') == len(FAULTS)
    for cause in (
        "answered 500",
        "redirects are not followed",
        "no JSON",
        "none of its 0 keys",
        "101 keys",
        "1048576 bytes",
    ):
        assert cause in told


def test_a_key_that_nobody_knows_makes_one_request(broker: Host) -> None:
    """So a rotation is seen at once, and strangers are no load. With an old key that is gone, its connections end."""
    asked = len(broker.shows.statuses)
    with Client(broker.port) as old, Client(broker.port) as kept:
        old.connect("old", password=token("EdDSA"))
        kept.connect("kept", password=token("ES256"))
        broker.shows.keys = jwks(jwk(PRIVATE["ES256"], "ES256"), jwk(NEW_KEY, "new"))
        assert attempt(broker.port, password=token("EdDSA", key=NEW_KEY, kid="new")).reason == 0
        assert broker.shows.statuses[asked:] == [200]
        last = old.expect_closed(5)
        assert last is not None
        assert last.reason == NOT_AUTHORIZED
        kept.nothing(0.05)
    for number in range(3):
        assert attempt(broker.port, password=token("EdDSA", key=NEW_KEY, kid=f"x{number}")).reason == REFUSED
    assert attempt(broker.port, password=token("EdDSA")).reason == REFUSED
    assert broker.shows.statuses[asked:] == [200]
    broker.shows.keys = ALL_KEYS
    assert broker.get("/v1/reload", method="POST")[0] == 200
    wait_for(lambda: attempt(broker.port, password=token("EdDSA")).reason == 0)


def test_an_issuer_that_shows_its_keys_slowly_holds_nobody_up(broker: Host) -> None:
    """Only who comes with a key that nobody knows waits for the answer, two seconds at most."""
    release, log, refused = threading.Event(), len(broker.log()), list[int]()
    broker.shows.before = lambda: [release.wait(20)]
    stranger = threading.Thread(
        target=lambda: refused.append(attempt(broker.port, password=token("EdDSA", key=NEW_KEY, kid="slow")).reason)
    )
    try:
        assert broker.get("/v1/reload", method="POST")[0] == 200
        begin = time.monotonic()
        stranger.start()
        for _ in range(10):
            assert attempt(broker.port, password=token()).reason == 0
        assert time.monotonic() - begin < 1.5 * busy()
        wait_for(lambda: f"{broker.shows.url} took longer than 2 s" in broker.log()[log:])
        stranger.join(10)
        assert refused == [REFUSED]
        assert attempt(broker.port, password=token()).reason == 0  # with the last good keys
    finally:
        release.set()
        broker.shows.before = lambda: None
    assert broker.get("/v1/reload", method="POST")[0] == 200
    wait_for(lambda: '"jwks_back"' in broker.log()[log:])


# -- introspection --------------------------------------------------------------------------------------------------------


def answers(broker: Host, **known: Any) -> None:
    """About these tokens; all others are inactive."""
    broker.answers.active = lambda token: known.get(token, {"active": False})


def active(**changed: Any) -> dict[str, Any]:
    return {"active": True, **claims(**changed)}


def test_an_active_token_lets_in_and_is_not_asked_about_again(broker: Host) -> None:
    answers(
        broker, good=active(aud=["other", AUDIENCE]), bare={"active": True, "aud": AUDIENCE, "sub": "bob", "exp": 2e9}
    )
    asked = len(broker.answers.statuses)
    for version in (4, 5, 5):
        with Client(broker.port, version) as client:
            client.connect("c", user="alice" if version == 4 else None, password=b"good")
            assert broker.get("/v1/clients/c")[1]["user"] == "alice"
    assert attempt(broker.port, user="bob", password=b"good").reason == REFUSED
    assert attempt(broker.port, user="bob", password=b"bare").reason == 0
    assert len(broker.answers.statuses) == asked + 2
    assert base64.b64decode(broker.answers.authorization.removeprefix("Basic ")) == b"the+broker:s3%3Acret%2F"
    answers(broker)  # revoked; a reload forgets what was good
    assert broker.get("/v1/reload", method="POST")[0] == 200
    assert attempt(broker.port, password=b"good").reason == REFUSED


def inactive() -> dict[str, Any]:
    """Made when they are needed: they are about the time of day."""
    return {
        "inactive": {"active": False},
        "another audience": active(aud="billing"),
        "no audience": active(aud=None),
        "expired": active(exp=time.time() - LEEWAY_S - 2),
        "no exp": active(exp=None),
        "exp is text": active(exp="2000000000"),
        "not yet": active(nbf=time.time() + 3600),
        "no user": active(sub=None),
        "user is a list": active(sub=["alice"]),
    }


@pytest.mark.parametrize("name", inactive())
def test_a_token_that_is_not_active_for_us_is_refused(broker: Host, name: str) -> None:
    answers(broker, bad=inactive()[name])
    before = count(broker, "auth_failures_total", '{method="introspection"}')
    asked = len(broker.answers.statuses)
    assert attempt(broker.port, password=b"bad").reason == REFUSED
    assert attempt(broker.port, 4, user="alice", password=b"bad").reason == 4
    assert count(broker, "auth_failures_total", '{method="introspection"}') == before + 2
    assert len(broker.answers.statuses) == asked + 2  # what was bad may be good the next time


def test_no_token_that_could_be_no_token_is_asked_about(broker: Host) -> None:
    asked = len(broker.answers.statuses)
    for password in (b"a\nb", b"\xff", "tökén".encode(), b"x" * 16_385, b"\0"):
        assert attempt(broker.port, password=password).reason == REFUSED
    assert attempt(broker.port).reason == NOT_AUTHORIZED
    assert attempt(broker.port, user="alice").reason == REFUSED
    assert attempt(broker.port, user="alice", password=b"").reason == REFUSED
    assert attempt(broker.port, user="alice", password=token(aud="billing")).reason == REFUSED  # auth.jwt's alone
    assert len(broker.answers.statuses) == asked


def test_a_connection_ends_when_the_issuer_said(broker: Host) -> None:
    answers(broker, brief=active(exp=time.time() - LEEWAY_S + 2))
    with Client(broker.port) as client:
        client.connect("brief", password=b"brief")
        last = client.expect_closed(5)
        assert last is not None
        assert last.reason == NOT_AUTHORIZED
    assert attempt(broker.port, password=b"brief").reason == REFUSED  # not for cache_s


BROKEN: dict[str, Any] = {
    "no JSON": b"<html>",
    "no object": [True],
    "no active": {},
    "active is text": {"active": "true"},
    "huge": {"active": True, "more": "x" * 70_000},
}


def test_a_broken_issuer_lets_nobody_in(broker: Host) -> None:
    """The client may try again later (0x88): it is not its fault, and counts as no failed login."""
    before = count(broker, "auth_failures_total", '{method="introspection"}')
    for answer in BROKEN.values():
        answers(broker, any=answer, good=active())
        assert attempt(broker.port, password=b"any").reason == UNAVAILABLE
        assert broker.get("/v1/reload", method="POST")[0] == 200  # nothing of before is remembered
        assert attempt(broker.port, password=b"good").reason == 0  # and it was the fault of that answer only
    assert count(broker, "auth_failures_total", '{method="introspection"}') == before


def test_an_issuer_that_fails_is_asked_rarely(broker: Host) -> None:
    """Slow answers stall nobody, and after five the others are refused without a question."""
    answers(broker, good=active(), other=active())
    assert attempt(broker.port, password=b"good").reason == 0
    release = threading.Event()
    broker.answers.before = lambda: [release.wait(10)]
    asked = [threading.Thread(target=lambda: attempt(broker.port, password=b"other")) for _ in range(5)]
    begin = time.monotonic()
    for each in asked:
        each.start()
    for _ in range(10):
        assert attempt(broker.port, password=token()).reason == 0
    assert time.monotonic() - begin < 2.0 * busy()
    for each in asked:
        each.join()
    release.set()
    questions = broker.answers.questions
    for _ in range(5):
        assert attempt(broker.port, password=b"other").reason == UNAVAILABLE
    assert attempt(broker.port, 4, user="", password=b"other").reason == 3
    assert broker.answers.questions == questions
    assert "longer than 1 s" in broker.log()


def test_after_five_failures_one_may_try_every_five_seconds() -> None:
    circuit = Circuit()
    for now in range(5):
        assert circuit.allows(now)
        circuit.failed()
    assert [now for now in range(4, 21) if circuit.allows(now)] == [9, 14, 19]
    circuit.succeeded()
    assert all(circuit.allows(20 + now / 10) for now in range(10))


def test_an_issuer_whose_certificate_nobody_vouches_for_is_not_believed(broker: Host, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    for ca_file in ("", stranger.path):
        with pytest.raises(IssuerAway, match="certificate verify failed"):
            Endpoint(broker.answers.url, ca_file, 5, 1000).ask({})
    by_name = broker.answers.url.replace("127.0.0.1", "localhost")
    with pytest.raises(IssuerAway, match="Hostname mismatch"):
        Endpoint(by_name, broker.authority.path, 5, 1000).ask({})


def test_a_secret_in_place_of_public_keys(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 32 + b"\n")
    secret.chmod(0o600)
    section = (
        f'[auth.jwt]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\nsecret_file = "{secret}"\nalgorithms = ["HS256"]\n'
    )
    open_port = free_port()
    section += f'[[listeners]]\ntype = "tcp"\nbind = "127.0.0.1:{open_port}"\nallow_anonymous = true\n'
    with running(section, auth="", workers=1) as broker:
        good = token("HS256", key=b"x" * 32)
        assert attempt(broker.port, password=good).reason == 0
        assert attempt(broker.port, password=token("HS256", key=b"y" * 32)).reason == REFUSED
        assert attempt(broker.port, password=token("ES256")).reason == REFUSED
        assert attempt(broker.port).reason == NOT_AUTHORIZED  # nobody is anonymous any more, not even on loopback
        assert attempt(broker.port, user="alice", password=b"any").reason == REFUSED
        assert attempt(open_port).reason == 0  # and where everybody is welcome, nobody takes a name without a token
        for password in (None, b"", b"any"):
            assert attempt(open_port, user="alice", password=password).reason == REFUSED
        with Client(broker.port) as client:
            client.connect("c", password=good)
            secret.write_bytes(b"z" * 32)
            assert broker.get("/v1/reload", method="POST")[0] == 200
            assert client.expect_closed(5) is not None


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://[2001:db8::1]/keys", ("2001:db8::1", 443)),
        ("http://[::1]/keys", ("::1", 80)),
        ("https://[2001:db8::1]:8443/keys", ("2001:db8::1", 8443)),
        ("https://id.example.org/keys", ("id.example.org", 443)),
    ],
)
def test_an_issuer_is_found_by_its_address_too(url: str, place: tuple[str, int]) -> None:
    connection = Endpoint(url, "", 1, 1)._connection()
    assert (connection.host, connection.port) == place


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
    ],
)
def test_an_issuer_that_answers_byte_by_byte_is_away(begin: bytes) -> None:
    """Whatever it is that does not end: a timeout of the socket begins anew with each byte."""
    over = threading.Event()

    def trickle(server: socket.socket) -> None:
        connected, _ = server.accept()
        with connected, suppress(OSError):
            connected.sendall(begin)
            while not over.wait(0.05):
                connected.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=(server,), daemon=True)
        thread.start()
        began = time.monotonic()
        with pytest.raises(IssuerAway, match=r"took longer than 0\.3 s"):
            Endpoint(f"http://127.0.0.1:{server.getsockname()[1]}/keys", "", 0.3, 99_999).ask({})
        assert time.monotonic() - began < 10
        over.set()
        thread.join(10)
