"""S04, S10-S12, S14, S25, B1 over the wire: every way of a message asks the rules, and no name widens them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.broker import wait_for
from tests.mqtt import CONNACK, PUBACK, PUBLISH, PUBREC, Client, connect_packet
from tests.security.guarded import Guarded, count, guarded, password_of

FILTER_INVALID, NOT_AUTHORIZED, PROTOCOL_ERROR = 0x8F, 0x87, 0x82
ODD_NAMES = ["+", "#", "+/+", "alice/#", "a\nb", "%u", "$SYS", "a/b"]
ACL = """
pattern readwrite own/%u/%c/#
user alice
topic readwrite shared/#
topic deny shared/secret/#
topic write drop/box
topic read tower/#
user watcher
topic read #
topic write #
user monitor
topic read $SYS/#
user ruler
topic readwrite $SYS/#
topic readwrite #
"""
USERS = ("alice", "bob", "watcher", "monitor", "ruler", *(name for name in ODD_NAMES if name not in ("#", "a\nb")))


@pytest.fixture(scope="module")
def broker() -> Iterator[Guarded]:
    with guarded(ACL, *USERS, more="[sys]\ninterval_s = 0.2\n") as broker:
        yield broker


@pytest.fixture
def watcher(broker: Guarded) -> Iterator[Client]:
    with broker.client("watcher") as watcher:
        assert watcher.subscribe(("#", 2)).reasons == [2]
        yield watcher


def test_b1_what_no_rule_grants_is_denied(broker: Guarded, watcher: Client) -> None:
    with broker.client("bob") as bob:
        assert bob.subscribe("shared/a", "#", "own/bob/bob/#", "own/bob/+/#", "own/#").reasons == [
            NOT_AUTHORIZED, NOT_AUTHORIZED, 0, NOT_AUTHORIZED, NOT_AUTHORIZED,
        ]  # fmt: skip
        assert bob.publish_all("shared/a", b"x").reason == NOT_AUTHORIZED
        assert bob.publish_all("own/bob/other/a", b"x").reason == NOT_AUTHORIZED
        bob.publish("own/bob/bob/a", b"mine")
        assert bob.take().payload == b"mine"
    assert watcher.take().payload == b"mine"
    watcher.nothing()


def test_the_access_log_tells_the_first_that_was_denied_to_a_connection(broker: Guarded) -> None:
    """Once: who tries on and on must not fill the log."""
    for _ in range(2):
        with broker.client("bob", "told") as bob:
            bob.publish("own/bob/told/a", b"granted")
            for number in range(5):
                assert bob.publish_all(f"shared/{number}", b"x").reason == NOT_AUTHORIZED
            assert bob.subscribe("shared/a").reasons == [NOT_AUTHORIZED]
    with broker.client("bob", "told") as bob:
        bob.subscribe("shared/a")
    lines = [json.loads(line) for line in broker.log().splitlines() if '"event":"denied"' in line]
    told = [(each["action"], each["topic"], each["user"]) for each in lines if each["client_id"] == "told"]
    assert told == [("publish", "shared/0", "bob")] * 2 + [("subscribe", "shared/a", "bob")]


def test_s10_a_grant_is_the_language_of_its_filter(broker: Guarded) -> None:
    """A subscription may hold no topic that is not granted; a deny inside it is applied at delivery."""
    with broker.client("alice") as alice, broker.client("ruler") as ruler:
        asked = ["shared/#", "shared/+", "+/a", "shared/secret/#", "shared/secret/a", "tower/+/#", "drop/box", "tower"]
        answers = [0, 0, NOT_AUTHORIZED, NOT_AUTHORIZED, NOT_AUTHORIZED, 0, NOT_AUTHORIZED, 0]
        assert alice.subscribe(*asked).reasons == answers
        for topic in ("shared/secret/a", "drop/box", "shared/last"):
            ruler.publish_all(topic, topic.encode())
        assert alice.take().topic == "shared/last"


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("place", ["user", "client id"])
def test_s11_no_name_is_a_wildcard(broker: Guarded, place: str, name: str) -> None:
    user, client_id = (name, "c") if place == "user" else ("bob", name)
    if user not in USERS:
        pytest.skip("such a user cannot stand in a password file")
    with broker.client(user, client_id) as odd, broker.client("alice", "phone") as alice:
        others = ["own/alice/phone/#", "own/+/+/#", "own/+/#", "own/#"]
        assert odd.subscribe(*others).reasons == [NOT_AUTHORIZED] * 4
        granted = odd.subscribe(f"own/{user}/{client_id}/#").reasons == [0]
        assert granted == (name in ("%u", "$SYS"))  # odd, but literal
        assert odd.publish_all("own/alice/phone/a", b"x").reason == NOT_AUTHORIZED
        assert alice.subscribe("own/alice/phone/#").reasons == [0]
        alice.nothing(0.05)


BAD_SHARES = ["$share", "$share/", "$share/g", "$share//t", "$share/g/", "$share/+/t", "$share/#/t", "$share/g#/t"]


@pytest.mark.parametrize("filter", BAD_SHARES)
@pytest.mark.parametrize("version", [4, 5])
def test_s04_a_bad_share_is_refused_and_never_stored(broker: Guarded, version: int, filter: str) -> None:
    more = {"session_expiry": 60} if version == 5 else {}
    with broker.client("watcher", "sharer", version=version, clean=False, **more) as sharer:
        assert sharer.subscribe((filter, 1)).reasons == [FILTER_INVALID if version == 5 else 0x80]
        assert broker.get("/v1/sessions/sharer")[1]["subscriptions"] == []
        sharer.subscribe(("t", 1))
        sharer.publish_all("t", b"still alive", 1)
        wait_for(lambda: [sharer.receive()], 5)
    broker.get("/v1/sessions/sharer", method="DELETE")


def test_s04_no_local_on_a_share_ends_the_connection(broker: Guarded) -> None:
    with broker.client("watcher", "sharer") as sharer:
        with pytest.raises(AssertionError, match="kind=14"):
            sharer.subscribe(("$share/g/t", 1 | 4))
        assert broker.get("/v1/topics/match?topic=t")[1] == []


def test_s04_s14_a_share_is_judged_by_its_filter(broker: Guarded) -> None:
    with broker.client("alice") as alice:
        asked = ["$share/g/shared/#", "$share/g/shared/secret/#", "$share/g/#", "$share/shared/drop/box"]
        assert alice.subscribe(*asked).reasons == [0, NOT_AUTHORIZED, NOT_AUTHORIZED, NOT_AUTHORIZED]
        with broker.client("ruler") as ruler:
            ruler.publish_all("shared/secret/a", b"hidden")
            ruler.publish_all("shared/a", b"seen")
        assert alice.take().payload == b"seen"


@pytest.mark.parametrize("topic", ["tower/a", "shared/secret/a", "own/alice/other/a", "$SYS/broker/uptime", "anything"])
def test_s14_every_way_to_publish_asks(broker: Guarded, watcher: Client, topic: str) -> None:
    before = count(broker, "authz_denied_total")
    for version in (4, 5):
        with broker.client("alice", version=version) as alice:
            for retain in (False, True):
                alice.publish(topic, b"qos 0", retain=retain)
                for qos, kind in ((1, PUBACK), (2, PUBREC)):
                    alice.publish(topic, b"denied", qos, retain=retain)
                    assert alice.expect(kind).reason == (NOT_AUTHORIZED if version == 5 else 0)
    with broker.client("alice") as alice:
        alice.publish("shared/known", b"allowed", topic_alias=1)
        alice.publish(topic, b"new topic of the alias", topic_alias=1)
        assert alice.publish_all("", b"through the alias", 1, topic_alias=1).reason == NOT_AUTHORIZED
        alice.publish(topic, b"sets alias 2", topic_alias=2)
        assert alice.publish_all("", b"through the alias", 1, topic_alias=2).reason == NOT_AUTHORIZED
    assert watcher.take().payload == b"allowed"
    watcher.nothing()
    wait_for(lambda: count(broker, "authz_denied_total") >= before + 16, 5)
    with broker.client("ruler") as ruler:
        ruler.subscribe(topic)
        assert all(not (found.retain and b"denied" in found.payload) for found in drained(ruler))


def drained(client: Client) -> list:
    found = []
    while True:
        try:
            found.append(client.receive(0.1))
        except TimeoutError:
            return found


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("topic", ["tower/a", "shared/secret/a", "$SYS/broker/uptime", "$CONTROL/dynamic-security/v1"])
def test_s12_a_will_is_judged_at_connect(broker: Guarded, version: int, topic: str) -> None:
    with Client(broker.port, version) as alice:
        will = (topic, b"will", 1, False)
        alice.send(connect_packet("w", version=version, user="alice", password=password_of("alice"), will=will))
        assert alice.expect(CONNACK).reason == (NOT_AUTHORIZED if version == 5 else 5)


@pytest.mark.parametrize("delay_s", [0, 1])
def test_s12_a_will_is_judged_again_when_it_fires(broker: Guarded, watcher: Client, delay_s: int) -> None:
    options = {"will_properties": {"will_delay": delay_s}, "session_expiry": 60}
    allowed = broker.client("alice", "allowed", will=("drop/box", b"allowed", 1, False), **options)
    revoked = broker.client("alice", "revoked", will=("shared/a", b"revoked", 1, False), **options)
    fired = count(broker, "wills_published_total")
    try:
        broker.rules(ACL.replace("topic readwrite shared/#", "topic read shared/#"))
        for client in (revoked, allowed):
            client.close()
        assert watcher.take().payload == b"allowed"
        watcher.nothing()
        wait_for(lambda: count(broker, "wills_pending") == 0, 5)
        assert count(broker, "wills_published_total") == fired + 1
    finally:
        broker.rules(ACL)
        for name in ("allowed", "revoked"):
            broker.get(f"/v1/sessions/{name}", method="DELETE")


@pytest.mark.parametrize("filter", ["#", "+/broker/uptime", "+/#", "+/broker/+"])
def test_s25_wildcards_do_not_reach_sys(broker: Guarded, filter: str) -> None:
    with broker.client("ruler") as ruler:
        assert ruler.subscribe(filter).reasons == [0]
        ruler.nothing(0.5)  # two intervals of $SYS


def test_s25_sys_needs_a_grant(broker: Guarded) -> None:
    with broker.client("watcher") as watcher, broker.client("monitor") as monitor:
        assert watcher.subscribe("$SYS/#", "$SYS/broker/uptime").reasons == [NOT_AUTHORIZED] * 2
        assert monitor.subscribe("$SYS/broker/uptime").reasons == [0]
        assert monitor.take().topic == "$SYS/broker/uptime"
        assert monitor.publish_all("$SYS/broker/uptime", b"forged").reason == NOT_AUTHORIZED


def test_s14_retained_messages_are_judged_when_they_are_sent(broker: Guarded) -> None:
    with broker.client("ruler") as ruler, broker.client("alice") as alice:
        for topic in ("shared/secret/kept", "shared/kept"):
            ruler.publish_all(topic, topic.encode(), 1, retain=True)
        assert alice.subscribe(("shared/#", 1)).reasons == [1]
        assert [found.topic for found in drained(alice) if found.kind == PUBLISH] == ["shared/kept"]
        for topic in ("shared/secret/kept", "shared/kept"):
            ruler.publish_all(topic, b"", 1, retain=True)
