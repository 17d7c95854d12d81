"""Who gets in: user name and password, and the AUTH exchange (SCRAM-SHA-256) at CONNECT and later."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import pytest

from node.auth.passwords import Password
from node.auth.scram import make_verifier
from tests.broker import Broker, running
from tests.mqtt import AUTH, CONNACK, DISCONNECT, PINGRESP, Client, Packet, connect_packet, packet, properties
from tests.protocol.answers import MALFORMED, PROTOCOL_ERROR, assert_refused
from tests.protocol.clients import Clients, Placed, new_name

METHOD = "SCRAM-SHA-256"
CONTINUE, AGAIN = 0x18, 0x19
BAD_USER_OR_PASSWORD, NOT_AUTHORIZED, BAD_METHOD, TOO_LARGE = 0x86, 0x87, 0x8C, 0x95
USERS = {"ann": "ann's secret", "bob": "bob's"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    file = tmp_path_factory.mktemp("users") / "passwords"
    for user, password in USERS.items():
        verifier = make_verifier(password, b"some fixed salt!", rounds=4096).encode()
        with file.open("a") as lines:
            lines.write(f"{user}:{Password(password).hash()}:{verifier}\n")
    with running(auth=f'password_file = "{file}"\nallow_anonymous = false') as broker:
        yield broker


class Scram:
    """The client's side of RFC 5802."""

    def __init__(self, user: str, password: str, nonce: str = "fyko+d2lbbFgONRv9qkxdawL") -> None:
        self.password, self.bare = password.encode(), f"n={user},r={nonce}"
        self.first = f"n,,{self.bare}".encode()

    def final(self, challenge: bytes) -> bytes:
        parts = dict(part.split("=", 1) for part in challenge.decode().split(","))
        salted = hashlib.pbkdf2_hmac("sha256", self.password, base64.b64decode(parts["s"]), int(parts["i"]))
        without_proof = f"c=biws,r={parts['r']}"
        signed = f"{self.bare},{challenge.decode()},{without_proof}".encode()
        key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True))).decode()
        server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        self.proof_of_server = b"v=" + base64.b64encode(server)
        return f"{without_proof},p={proof}".encode()


def auth(reason: int, **values: Any) -> bytes:
    return packet(0xF0, bytes([reason]) + properties(**values))


def begin(client: Client, scram: Scram, client_id: str = "", **options: Any) -> Packet:
    """CONNECT with the method; the answer to it."""
    values = {"authentication_method": METHOD, "authentication_data": scram.first} | options
    client.send(connect_packet(client_id or new_name(), **values))
    return client.receive()


def respond(client: Client, scram: Scram, challenge: Packet) -> Packet:
    """The AUTH that the challenge asks for; the answer to it."""
    final = scram.final(challenge.properties["authentication_data"])
    client.send(auth(CONTINUE, authentication_method=METHOD, authentication_data=final))
    return client.receive()


@pytest.fixture
def proven(clients: Clients) -> Placed:
    """Ann, connected by SCRAM."""
    client, scram = clients.open(), Scram("ann", USERS["ann"])
    assert respond(client, scram, begin(client, scram)).reason == 0
    return client


# -- user name and password --------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.1.4-2", "MQTT-3.1.2-17", "MQTT-3.1.2-19", "MQTT-3.2.2-7", "3.1.1:MQTT-3.2.2-5")
@pytest.mark.parametrize(
    ("credentials", "reason", "return_code"),
    [
        ({"user": "ann", "password": b"ann's secret"}, 0, 0),
        ({"user": "ann", "password": b"bob's"}, BAD_USER_OR_PASSWORD, 4),
        ({"user": "eve", "password": b"ann's secret"}, BAD_USER_OR_PASSWORD, 4),
        ({"user": "ann"}, BAD_USER_OR_PASSWORD, 4),
        ({}, NOT_AUTHORIZED, 5),
    ],
    ids=["right", "wrong", "unknown", "no password", "nothing"],
)
def test_user_and_password_decide(
    broker: Broker, version: int, credentials: dict[str, Any], reason: int, return_code: int
) -> None:
    with Client(broker.port, version) as client:
        client.send(connect_packet(new_name(), version=version, **credentials))
        assert client.expect(CONNACK).reason == (reason if version == 5 else return_code)
        if reason:
            assert client.expect_closed() is None


def test_nobody_resumes_the_session_of_another_user(clients: Clients, topic: str) -> None:
    first = clients.connect(durable=True, user="ann", password=USERS["ann"].encode())
    first.subscribe((topic, 1))
    other = clients.connect(first.client_id, durable=True, user="bob", password=USERS["bob"].encode())
    assert not other.connack.session_present
    other.publish_all(topic)
    other.nothing()


# -- SCRAM at CONNECT ----------------------------------------------------------------------------------------------------------


@pytest.mark.statement(
    "MQTT-4.12.0-2", "MQTT-4.12.0-5", "MQTT-3.15.2-1", "MQTT-3.2.0-1", "MQTT-3.15.2-2", "MQTT-3.15.2-3"
)
def test_both_sides_prove_that_they_know_the_password(clients: Clients, topic: str) -> None:
    client, scram = clients.open(), Scram("ann", USERS["ann"])
    challenge = begin(client, scram)
    assert (challenge.kind, challenge.flags, challenge.reason) == (AUTH, 0, CONTINUE)
    assert challenge.properties.keys() == {"authentication_method", "authentication_data"}
    assert challenge.properties["authentication_method"] == METHOD
    connack = respond(client, scram, challenge)
    assert (connack.kind, connack.reason) == (CONNACK, 0)
    assert connack.properties["authentication_method"] == METHOD
    assert connack.properties["authentication_data"] == scram.proof_of_server
    client.subscribe((topic, 1))
    client.publish(topic, b"in")
    assert client.take().payload == b"in"


@pytest.mark.statement("MQTT-4.12.0-4", "MQTT-3.1.4-2", "MQTT-3.14.0-1")
@pytest.mark.parametrize(("user", "password"), [("ann", "bob's"), ("eve", "ann's secret")])
def test_a_wrong_proof_is_refused(broker: Broker, user: str, password: str) -> None:
    series = 'mqnode_auth_failures_total{method="scram"}'
    before = broker.metric(series)
    with Client(broker.port) as client:
        scram = Scram(user, password)
        refused = respond(client, scram, begin(client, scram))
        assert (refused.kind, refused.reason) == (CONNACK, NOT_AUTHORIZED)
        assert client.expect_closed() is None
    assert broker.metric(series) == before + 1


@pytest.mark.statement("MQTT-4.12.0-4")
@pytest.mark.parametrize("data", [None, b"", b"garbage", b"\xff", b"y,,n=ann", b"p=tls-unique,,n=ann,r=abc"])
def test_a_wrong_first_message_is_refused(broker: Broker, data: bytes | None) -> None:
    with Client(broker.port) as client:
        refused = begin(client, Scram("ann", ""), authentication_data=[] if data is None else data)
        assert (refused.kind, refused.reason) == (CONNACK, NOT_AUTHORIZED)
        assert client.expect_closed() is None


@pytest.mark.statement("MQTT-4.12.0-1")
@pytest.mark.parametrize("method", ["", "SCRAM-SHA-1", "scram-sha-256", "PLAIN"])
def test_an_unknown_method_is_refused(broker: Broker, method: str) -> None:
    credentials = {"user": "ann", "password": USERS["ann"].encode()}
    assert_refused(broker, connect_packet(new_name(), authentication_method=method, **credentials), BAD_METHOD)


@pytest.mark.statement("MQTT-4.12.0-6")
def test_who_asks_for_no_method_gets_none(clients: Clients) -> None:
    client = clients.connect(user="ann", password=USERS["ann"].encode())
    assert "authentication_method" not in client.connack.properties
    client.nothing()


@pytest.mark.statement("MQTT-4.12.0-5")
@pytest.mark.parametrize(
    "wrong",
    [
        auth(CONTINUE, authentication_method="PLAIN", authentication_data=b"x"),
        auth(CONTINUE, authentication_data=b"x"),
        auth(AGAIN, authentication_method=METHOD, authentication_data=b"x"),
        auth(0, authentication_method=METHOD, authentication_data=b"x"),
        auth(0x42, authentication_method=METHOD, authentication_data=b"x"),
        packet(0xF0),
        packet(0xC0),
        connect_packet("again"),
    ],
    ids=["other method", "no method", "re-authentication", "success", "unknown reason", "empty", "PINGREQ", "CONNECT"],
)
def test_another_packet_than_the_expected_one_is_refused(broker: Broker, wrong: bytes) -> None:
    with Client(broker.port) as client:
        assert begin(client, Scram("ann", USERS["ann"])).kind == AUTH
        client.send(wrong)
        refused = client.expect_closed()
        assert refused is not None
        assert (refused.kind, refused.reason) == (CONNACK, PROTOCOL_ERROR)


def test_the_client_may_break_off(broker: Broker) -> None:
    with Client(broker.port) as client:
        assert begin(client, Scram("ann", USERS["ann"])).kind == AUTH
        client.send(packet(0xE0))
        client.expect_closed()


@pytest.mark.statement("MQTT-3.1.2-24")
def test_a_client_too_small_for_the_challenge_is_refused(broker: Broker) -> None:
    with Client(broker.port) as client:
        refused = begin(client, Scram("ann", USERS["ann"]), maximum_packet_size=40)
        assert (refused.kind, refused.reason) == (CONNACK, TOO_LARGE)


# -- re-authentication -----------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-4.12.0-5", "MQTT-3.15.2-1", "MQTT-4.12.0-2")
def test_a_client_may_prove_itself_again(proven: Placed, topic: str) -> None:
    scram = Scram("ann", USERS["ann"], "another")
    proven.send(auth(AGAIN, authentication_method=METHOD, authentication_data=scram.first))
    challenge = proven.receive()
    assert (challenge.kind, challenge.reason) == (AUTH, CONTINUE)
    proven.send(packet(0xC0))  # other packets flow meanwhile
    assert proven.receive().kind == PINGRESP
    done = respond(proven, scram, challenge)
    assert (done.kind, done.reason) == (AUTH, 0)
    assert done.properties == {"authentication_method": METHOD, "authentication_data": scram.proof_of_server}
    proven.subscribe((topic, 1))


@pytest.mark.statement("MQTT-4.12.1-2", "MQTT-4.13.2-1")
@pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("bob", "bob's")], ids=["wrong", "another user"])
def test_who_fails_then_is_disconnected(proven: Placed, user: str, password: str) -> None:
    scram = Scram(user, password)
    proven.send(auth(AGAIN, authentication_method=METHOD, authentication_data=scram.first))
    last = respond(proven, scram, proven.receive())
    assert (last.kind, last.reason) == (DISCONNECT, NOT_AUTHORIZED)
    assert proven.expect_closed() is None


@pytest.mark.statement("MQTT-4.12.1-2")
@pytest.mark.parametrize("values", [{"authentication_method": "PLAIN"}, {}], ids=["other", "none"])
def test_the_method_must_be_that_of_connect(proven: Placed, values: dict[str, Any]) -> None:
    proven.send(auth(AGAIN, authentication_data=b"x", **values))
    last = proven.expect_closed()
    assert last is not None
    assert (last.kind, last.reason) == (DISCONNECT, PROTOCOL_ERROR)


@pytest.mark.statement("MQTT-3.15.1-1")
def test_other_flags_of_auth_are_malformed(broker: Broker) -> None:
    for flags in range(1, 16):
        body = auth(CONTINUE, authentication_method=METHOD)[2:]
        with Client(broker.port) as client:
            assert begin(client, Scram("ann", USERS["ann"])).kind == AUTH
            client.send(packet(0xF0 | flags, body))
            refused = client.expect_closed()
            assert refused is not None
            assert refused.reason == MALFORMED


def test_auth_without_a_method_in_connect_is_a_protocol_error(clients: Clients, version: int) -> None:
    client = clients.connect(version=version, user="ann", password=USERS["ann"].encode())
    client.send(auth(AGAIN, authentication_method=METHOD, authentication_data=Scram("ann", "").first))
    last = client.expect_closed()
    assert (last is not None and last.reason == PROTOCOL_ERROR) if version == 5 else last is None
