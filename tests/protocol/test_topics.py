"""Topic names and filters: levels, wildcards, `$`, and no normalization."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.broker import Broker, running
from tests.mqtt import packet, properties, text
from tests.protocol.clients import Clients

FILTER_INVALID, NOT_AUTHORIZED = 0x8F, 0x87
RETAIN_AS_PUBLISHED = 8


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running("[sys]\ninterval_s = 0.3\n") as started:
        yield started


# below the prefix of a test; filter -> topics that it matches, topics that it does not
MATCHES: dict[str, tuple[list[str], list[str]]] = {
    "sport/tennis/player1/#": (
        ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"],
        ["sport/tennis", "sport/tennis/player2", "sport/tennis/player11"],
    ),
    "sport/#": (["sport", "sport/", "sport//", "sport/a/b/c"], ["sports", "Sport"]),
    "#": (["a", "a/b", "/", "//", "a/"], []),
    "sport/tennis/+": (
        ["sport/tennis/player1", "sport/tennis/", "sport/tennis/$x"],
        ["sport/tennis", "sport/tennis/player1/ranking"],
    ),
    "sport/+": (["sport/"], ["sport", "sport/a/b"]),
    "+/+": (["/finance", "a/b", "/"], ["finance", "/finance/x", "a"]),
    "/+": (["/finance", "/"], ["finance", "a/b", "//"]),
    "+": (["finance", ""], ["/finance", "a/"]),
    "+/tennis/#": (["a/tennis", "/tennis", "a/tennis/b/c"], ["tennis", "a/b/tennis"]),
    "a/+/c/+/#": (["a/b/c/d", "a//c/", "a/b/c/d/e/f"], ["a/b/c", "a/b/d/c"]),
    "+/#": (["a", "a/b", "/"], []),
    "a b/c": (["a b/c"], ["a  b/c", "a b /c"]),
    "ACCOUNTS": (["ACCOUNTS"], ["Accounts", "accounts"]),
    "\u00e5": (["\u00e5"], ["a\u030a", "\u212b"]),
    "\ufeff": (["\ufeff"], ["", "\ufeff\ufeff"]),
    "/": (["/"], ["", "//", "a/", "/a"]),
    "a//b": (["a//b"], ["a/b", "a/ /b"]),
    "\U0001f600/+": (["\U0001f600/\U0001f601"], ["\U0001f601/\U0001f600"]),
}


@pytest.mark.statement("MQTT-3.3.2-3", "MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-4", "MQTT-1.5.4-3", "MQTT-3.3.2-1")
@pytest.mark.parametrize("filter", MATCHES)
def test_filters_match(clients: Clients, topic: str, there: int, filter: str) -> None:
    """Live, queued, retained and in a shared subscription alike."""
    matching, others = MATCHES[filter]
    wanted = [f"{topic}/{name}" for name in matching]
    live = clients.connect(worker=there)
    live.subscribe((f"{topic}/{filter}", 1))
    durable = clients.connect(worker=there, durable=True)
    durable.subscribe((f"{topic}/{filter}", 1))
    shared = clients.connect(worker=there)
    shared.subscribe((f"$share/{topic.replace('/', '')}/{topic}/{filter}", 1))
    publisher = clients.connect()
    for name in (*others, *matching):
        publisher.publish_all(f"{topic}/{name}", b"x", 1, retain=True)
    retained = clients.connect(worker=there)
    retained.subscribe((f"{topic}/{filter}", 1))
    for client in (live, durable, shared):
        assert [each.topic for each in client.take_all(len(wanted))] == wanted
    assert sorted(each.topic for each in retained.take_all(len(wanted))) == sorted(wanted)
    for client in (live, durable, shared, retained):
        client.expect_nothing()


@pytest.mark.statement("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1", "MQTT-4.8.2-1", "MQTT-4.8.2-2")
@pytest.mark.parametrize(
    "filter",
    [
        "", "a#", "#/a", "a/#/b", "##", "#+", "a+", "+a", "a/+b/c", "a/b+", "++", "a/++", "a/#b", "$share", "$share/",
        "$share/g", "$share/g/", "$share//a", "$share/g+/a", "$share/#/a", "$share/+/a", "$share/g/a#", "$share/g/#/a",
    ],
)  # fmt: skip
def test_wrong_filters_are_refused(clients: Clients, version: int, filter: str) -> None:
    client = clients.connect(version=version)
    answer = client.subscribe(filter, "a/b")
    assert answer.reasons == [FILTER_INVALID if version == 5 else 0x80, 0]


@pytest.mark.statement("MQTT-4.7.3-3")
def test_long_topics_and_filters(clients: Clients, topic: str, there: int) -> None:
    """As long as the limit allows, and told apart by their last character; retained, too."""
    size = 4096 - len(topic) - 1
    names = [f"{topic}/{'x' * (size - 1)}{last}" for last in "ab"]
    publisher = clients.connect()
    live = clients.connect(worker=there)
    live.subscribe((names[0], 1))
    for name in names:
        publisher.publish_all(name, name[-1:].encode(), 1, retain=True)
    assert live.payloads(1) == [b"a"]
    live.expect_nothing()
    for last in "ab":
        client = clients.connect(worker=there)
        client.subscribe(names["ab".index(last)])
        assert client.payloads(1) == [last.encode()]
        client.expect_nothing()
    every = clients.connect(worker=there)
    every.subscribe(f"{topic}/+")
    assert sorted(every.payloads(2)) == [b"a", b"b"]


@pytest.mark.statement("MQTT-4.7.2-1")
def test_wildcards_at_the_front_do_not_match_the_brokers_topics(clients: Clients, topic: str, there: int) -> None:
    """They come neither as retained messages nor when they change."""
    filters = ["#", "+/#", "+/broker/#", "+/broker/uptime", "/#", f"$share/{topic.replace('/', '')}/#"]
    watching = [clients.connect(worker=there) for _ in filters]
    for client, filter in zip(watching, filters, strict=True):
        client.subscribe(filter)
    system = clients.connect(worker=there)
    system.subscribe_amid("$SYS/broker/uptime")
    assert [system.take().topic for _ in range(2)] == ["$SYS/broker/uptime"] * 2
    publisher = clients.connect()
    for name in ("/broker/uptime", "/x"):
        publisher.publish_all(name, topic.encode(), 1)
    for client in watching:
        got = client.take()
        while got.payload != topic.encode():  # what other tests left retained
            got = client.take()
            assert not got.topic.startswith("$")


@pytest.mark.statement("MQTT-3.3.4-3", "3.1.1:MQTT-3.3.1-8")
def test_the_brokers_topics(clients: Clients, version: int, there: int) -> None:
    client = clients.connect(version=version, worker=there)
    values = {"subscription_identifier": [9]} if version == 5 else {}
    client.subscribe_amid("$SYS/broker/version", **values)
    got = client.take()
    assert got.payload.startswith(b"mqnode version ")
    assert (got.retain, got.properties) == (True, values)
    client.subscribe_amid("$SYS/broker/clients/+", **values)
    names = {each.topic for each in client.take_all(7) if each.retain and each.properties == values}
    assert {"$SYS/broker/clients/connected", "$SYS/broker/clients/total"} <= names


@pytest.mark.parametrize("name", ["$SYS/broker/version", "$SYS", "$x/y"])
def test_publishing_to_the_brokers_topics_is_refused(clients: Clients, name: str) -> None:
    client = clients.connect()
    client.subscribe((name, 2 | 0x20))
    assert clients.connect().publish_all(name, b"mine", 1, retain=True).reason == NOT_AUTHORIZED
    client.expect_nothing()


def test_topics_that_follow_each_other_are_not_mixed_up(clients: Clients, topic: str, there: int) -> None:
    """In one go: topics that come again or change, with and without properties and retain, of any length."""
    subscriber = clients.connect(worker=there)
    subscriber.subscribe((f"{topic}/#", 1 | RETAIN_AS_PUBLISHED))
    messages = [
        (
            f"{topic}/{'aabab'[n % 5]}",
            n % 2,
            n % 4 == 3,
            {"content_type": "x"} if n % 7 == 6 else {},
            bytes(n * 31 % 500),
        )
        for n in range(300)
    ]
    sent = b""
    for id, (name, qos, retain, values, payload) in enumerate(messages, 1):
        body = text(name) + (struct.pack(">H", id) if qos else b"") + properties(**values)
        sent += packet(0x30 | qos << 1 | retain, body + payload)
    clients.connect().send(sent)
    got = [subscriber.take() for _ in messages]
    assert [(each.topic, each.qos, each.retain, each.properties, each.payload) for each in got] == messages
