"""Shared subscriptions: one member gets each message, at its own QoS; another one gets it when that member leaves."""

from __future__ import annotations

import pytest

from tests.mqtt import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, packet, properties, text
from tests.protocol.clients import Clients, Placed, new_name

NO_LOCAL, AS_PUBLISHED = 0x04, 0x08
PROTOCOL_ERROR, NO_SUBSCRIBERS, REFUSED = 0x82, 0x10, 0x83


def drain(client: Placed) -> list[bytes]:
    """The messages that the server owed before its answer to a PINGREQ, each acknowledged."""
    client.send(packet(0xC0))
    found: list[bytes] = []
    while (got := client.receive()).kind != 13:
        if got.kind == PUBLISH:
            found.append(got.payload)
            if got.qos:
                client.ack(PUBACK if got.qos == 1 else PUBREC, got.id)
        elif got.kind == PUBREL:
            client.ack(PUBCOMP, got.id)
    return found


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
@pytest.mark.parametrize("members", [(0, 0), (0, 1), (1, 1), (0, 1, 1)], ids=str)
def test_each_message_goes_to_one_member(
    clients: Clients, topic: str, members: tuple[int, ...], durable: bool, qos: int
) -> None:
    """Evenly, in the order of the messages for each member, wherever the members are."""
    group = [clients.connect(worker=worker, durable=durable) for worker in members]
    for client in group:
        client.subscribe((f"$share/g/{topic}", qos))
    publisher = clients.connect()
    count = 12 * len(members)
    for payload in numbers(count):
        publisher.publish_all(topic, payload, qos) if qos else publisher.publish(topic, payload)
    parts = [[each.payload for each in client.take_all(12)] for client in group]
    assert sorted(payload for part in parts for payload in part) == sorted(numbers(count))
    assert all(part == sorted(part, key=int) for part in parts)
    for client in group:
        client.expect_nothing()


@pytest.mark.statement("MQTT-4.8.2-3", "MQTT-3.8.4-8")
def test_each_member_has_its_qos_and_identifier(clients: Clients, topic: str, version: int, there: int) -> None:
    group = [
        clients.connect(version=version, worker=worker, durable=durable)
        for worker, durable in ((0, False), (there, False), (there, True), (there, True), (0, True))
    ]
    for client, qos in zip(group, (0, 1, 2, 0, 1), strict=True):
        values = {"subscription_identifier": [qos + 1]} if version == 5 else {}
        client.subscribe((f"$share/g/{topic}", qos), **values)
    publisher = clients.connect(version=version)
    for _ in range(20):
        publisher.publish_all(topic, b"x", 2)
    for client, qos in zip(group, (0, 1, 2, 0, 1), strict=True):
        found = client.take_all(4)
        assert {each.qos for each in found} == {qos}
        assert not any(each.retain or each.dup for each in found)
        if version == 5:
            assert all(each.properties == {"subscription_identifier": [qos + 1]} for each in found)


@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
def test_a_single_member_gets_everything(
    clients: Clients, topic: str, there: int, durable: bool, published: int, granted: int
) -> None:
    client = clients.connect(worker=there, durable=durable)
    client.subscribe((f"$share/g/{topic}", granted))
    publisher = clients.connect()
    for payload in numbers(5):
        publisher.publish(topic, payload, published, id=int(payload) + 1 if published else 0)
    found = client.take_all(5)
    assert [each.payload for each in found] == numbers(5)
    assert {each.qos for each in found} == {min(published, granted)}


def test_groups_and_plain_subscriptions_are_independent(clients: Clients, topic: str, version: int, there: int) -> None:
    """Groups of other names, the same name with another filter, a member of two, and a plain subscription beside."""
    one = clients.connect(version=version, worker=there)
    one.subscribe((f"$share/a/{topic}", 1), (f"$share/b/{topic}", 1))
    two = clients.connect(version=version, worker=there)
    two.subscribe((f"$share/a/{topic}/#", 1), (topic, 1))
    publisher = clients.connect(version=version)
    publisher.publish_all(topic, b"x", 1)
    assert one.payloads(2) == two.payloads(2) == [b"x", b"x"]
    for client in (one, two):
        client.expect_nothing()


@pytest.mark.statement("MQTT-3.8.3-4")
@pytest.mark.parametrize("options", [NO_LOCAL, NO_LOCAL | 1, NO_LOCAL | AS_PUBLISHED | 2])
def test_no_local_is_a_protocol_error(clients: Clients, topic: str, options: int) -> None:
    name = new_name()
    client = clients.connect(name, durable=True)
    filters = text(topic) + b"\1" + text(f"$share/g/{topic}") + bytes([options])
    client.send(packet(0x82, b"\0\1" + properties() + filters))
    client.expect_refused(PROTOCOL_ERROR)
    publisher = clients.connect()
    assert publisher.publish_all(topic, b"x", 1).reason == NO_SUBSCRIBERS  # nothing of it was subscribed
    clients.connect(name, durable=True).expect_nothing()


def test_the_publisher_may_be_the_member(clients: Clients, topic: str, version: int) -> None:
    client = clients.connect(version=version)
    client.subscribe(f"$share/g/{topic}")
    client.publish(topic, b"x")
    assert client.take().payload == b"x"


def test_retain_as_published(clients: Clients, topic: str, there: int) -> None:
    for qos, options in ((1, AS_PUBLISHED), (1, 0), (0, AS_PUBLISHED)):
        client = clients.connect(worker=there)
        client.subscribe((f"$share/g/{topic}", qos | options))
        clients.connect().publish_all(topic, b"x", 1, retain=True)
        assert client.take().retain is bool(options)
        client.unsubscribe(f"$share/g/{topic}")


def test_a_member_that_leaves_gets_nothing_more(clients: Clients, topic: str, version: int, there: int) -> None:
    stays = clients.connect(version=version)
    leaves = clients.connect(version=version, worker=there)
    ends = clients.connect(version=version, worker=there)
    for client in (stays, leaves, ends):
        client.subscribe((f"$share/g/{topic}", 1))
    leaves.unsubscribe(f"$share/g/{topic}")
    ends.disconnect()
    ends.abort()
    publisher = clients.connect(version=version)
    for payload in numbers(20):
        publisher.publish_all(topic, payload, 1)
    leaves.expect_nothing()
    assert sorted(stays.payloads(20)) == sorted(numbers(20))  # what `ends` was given as it went comes a little later


@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_a_member_that_acknowledges_nothing_is_passed_over(clients: Clients, topic: str, durable: bool) -> None:
    """It gets its receive maximum, as long as another one takes the rest; alone it is due all."""
    stuck = clients.connect(durable=durable, receive_maximum=1)
    other = clients.connect(durable=durable)
    for client in (stuck, other):
        client.subscribe((f"$share/g/{topic}", 1))
    publisher = clients.connect()
    found: list[bytes] = []
    for payload in numbers(20):
        publisher.publish_all(topic, payload, 1)
        found += drain(other)
    held = stuck.expect(PUBLISH)
    assert sorted([held.payload, *found]) == sorted(numbers(20))
    other.unsubscribe(f"$share/g/{topic}")
    publisher.publish_all(topic, b"x", 1)
    stuck.ack(PUBACK, held.id)
    assert stuck.take().payload == b"x"


# -- redispatch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other_durable", [False, True], ids=["to-live", "to-durable"])
@pytest.mark.parametrize("durable", [False, True], ids=["of-live", "of-durable"])
def test_what_an_ended_session_has_not_acknowledged_goes_to_others(
    clients: Clients, topic: str, there: int, durable: bool, other_durable: bool
) -> None:
    """QoS 1 that was sent, and what was never sent, to a member on any worker; nothing is lost, nothing comes twice."""
    filter = f"$share/g/{topic}"
    name = new_name()
    gone = clients.connect(name, worker=1, durable=durable, receive_maximum=3)
    gone.subscribe((filter, 1))
    publisher = clients.connect()
    for payload in numbers(8):
        publisher.publish_all(topic, payload, 1)
    sent = [gone.expect(PUBLISH) for _ in range(3)]
    gone.ack(PUBACK, sent[0].id)
    sent.append(gone.expect(PUBLISH))
    other = clients.connect(worker=there, durable=other_durable)
    other.subscribe((filter, 1))
    gone.abort()
    if durable:
        clients.connect(name, worker=1, clean=True)
    assert sorted(other.payloads(7)) == numbers(8)[1:]
    other.expect_nothing()


@pytest.mark.statement("MQTT-4.8.2-5")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_qos2_that_was_sent_goes_to_nobody_else(clients: Clients, topic: str, there: int, durable: bool) -> None:
    filter = f"$share/g/{topic}"
    name = new_name()
    gone = clients.connect(name, worker=1, durable=durable, receive_maximum=2)
    gone.subscribe((filter, 2))
    publisher = clients.connect()
    for payload in numbers(4):
        publisher.publish_all(topic, payload, 2)
    sent = [gone.expect(PUBLISH) for _ in range(2)]
    gone.ack(PUBREC, sent[0].id)
    gone.expect(PUBREL)
    other = clients.connect(worker=there)
    other.subscribe((filter, 2))
    gone.abort()
    if durable:
        clients.connect(name, worker=1, clean=True)
    assert sorted(other.payloads(2)) == [b"2", b"3"]
    other.expect_nothing()


@pytest.mark.statement("MQTT-4.8.2-6")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_refused_message_goes_to_nobody_else(
    clients: Clients, topic: str, there: int, durable: bool, qos: int
) -> None:
    filter = f"$share/g/{topic}"
    member = clients.connect(worker=1, durable=durable)
    member.subscribe((filter, qos))
    clients.connect().publish_all(topic, b"x", qos)
    other = clients.connect(worker=there, durable=durable)
    other.subscribe((filter, qos))
    got = member.expect(PUBLISH)
    member.ack(PUBACK if qos == 1 else PUBREC, got.id, REFUSED)
    member.expect_nothing()
    member.abort()
    if durable:
        clients.connect(member.client_id, worker=1, clean=True).expect_nothing()
    other.expect_nothing()


@pytest.mark.statement("MQTT-4.8.2-4", "MQTT-4.4.0-1")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_member_that_comes_back_completes_its_own(
    clients: Clients, topic: str, version: int, there: int, qos: int
) -> None:
    """Its session goes on: what it was sent stays its own, though another member is there."""
    filter = f"$share/g/{topic}"
    name = new_name()
    member = clients.connect(name, version, 1, durable=True)
    member.subscribe((filter, qos))
    publisher = clients.connect(version=version)
    publisher.publish_all(topic, b"mine", qos)
    sent = member.expect(PUBLISH)
    member.abort()
    other = clients.connect(version=version, worker=there)
    other.subscribe((filter, qos))
    member = clients.connect(name, version, there, durable=True)
    again = member.take()
    assert (again.payload, again.id, again.dup) == (b"mine", sent.id, True)
    other.expect_nothing()


# -- durable members ---------------------------------------------------------------------------------------------------


def test_members_that_are_away_get_only_what_nobody_else_can(clients: Clients, topic: str, there: int) -> None:
    filter = f"$share/g/{topic}"
    away = [clients.connect(worker=worker, durable=True) for worker in (0, 1)]
    online = clients.connect(worker=there)
    for client in (*away, online):
        client.subscribe((filter, 1))
    for client in away:
        client.disconnect()
    publisher = clients.connect()
    for payload in numbers(6):
        publisher.publish_all(topic, payload, 1)
    early = online.payloads(6)
    online.unsubscribe(filter)
    for payload in numbers(12)[6:]:
        assert publisher.publish_all(topic, payload, 1).reason == 0
    late = [drain(clients.connect(client.client_id, worker=1, durable=True)) for client in away]
    assert early == numbers(6)
    assert sorted(late[0] + late[1], key=int) == numbers(12)[6:]
    assert all(late)


def test_a_durable_member_online_elsewhere_is_preferred_to_one_away(clients: Clients, topic: str, there: int) -> None:
    filter = f"$share/g/{topic}"
    away, online = clients.connect(durable=True), clients.connect(worker=there, durable=True)
    for client in (away, online):
        client.subscribe((filter, 1))
    away.disconnect()
    publisher = clients.connect()
    for payload in numbers(6):
        publisher.publish_all(topic, payload, 1)
    assert online.payloads(6) == numbers(6)
    clients.connect(away.client_id, durable=True).expect_nothing()


def test_a_durable_member_leaves_its_group(clients: Clients, topic: str, version: int, there: int) -> None:
    """The subscription goes everywhere; a session that is resumed has it no more."""
    filter = f"$share/g/{topic}"
    name = new_name()
    member = clients.connect(name, version, there, durable=True)
    member.subscribe((filter, 1))
    member.unsubscribe(filter)
    member.disconnect()
    publisher = clients.connect(version=version)
    answer = publisher.publish_all(topic, b"x", 1)
    assert answer.reason == (NO_SUBSCRIBERS if version == 5 else 0)
    clients.connect(name, version, 1 - there, durable=True).expect_nothing()


def test_the_subscription_of_a_durable_member_is_resumed(
    clients: Clients, topic: str, version: int, there: int
) -> None:
    filter = f"$share/g/{topic}"
    name = new_name()
    member = clients.connect(name, version, there, durable=True)
    member.subscribe((filter, 1))
    member.disconnect()
    member = clients.connect(name, version, 1 - there, durable=True)
    publisher = clients.connect(version=version)
    for payload in numbers(3):
        publisher.publish_all(topic, payload, 2)
    publisher.publish(topic, b"qos 0")
    assert sorted(member.payloads(4)) == [*numbers(3), b"qos 0"]
