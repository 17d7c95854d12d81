"""What loses something says what, asks, and does it only then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker import Broker, wait_for
from tests.cli.command import Command
from tests.mqtt import Client

ADMINISTRATIVE_ACTION = 0x98


@pytest.fixture
def session(broker: Broker) -> Iterator[str]:
    """A durable session with two subscriptions and one queued message."""
    with Client(broker.port) as client:
        client.connect("doomed", clean=False, session_expiry=600)
        client.subscribe(("doomed/queue", 1), "doomed/b")
        client.disconnect()
    with Client(broker.port) as client:
        client.connect("doomed-publisher")
        client.publish_all("doomed/queue", b"x", 1)
        client.disconnect()
    yield "doomed"
    broker.get("/v1/sessions/doomed", method="DELETE")


def exists(mqnode: Command, *names: str) -> bool:
    code = mqnode(*names).returncode
    assert code in (0, 1)
    return code == 0


def test_delete_a_session(mqnode: Command, session: str) -> None:
    text = mqnode.fails("sessions", "delete", session, typed="n\n", code=1)
    assert "2 subscriptions and 1 queued message" in text
    assert "will be lost" in text
    assert "Nothing was done" in text
    text = mqnode.fails("sessions", "delete", session, code=2)
    assert "add --yes" in text
    assert exists(mqnode, "sessions", "show", session)
    assert mqnode("sessions", "delete", session, typed="y\n").returncode == 0
    assert not exists(mqnode, "sessions", "show", session)
    assert "there is no durable session" in mqnode.fails("sessions", "delete", session, "--yes", code=1)


def test_delete_the_session_of_a_connected_client(broker: Broker, mqnode: Command, session: str) -> None:
    with Client(broker.port) as client:
        client.connect(session, clean=False, session_expiry=600)
        client.take()
        text = mqnode.fails("sessions", "delete", session, code=2)
        assert "will be disconnected" in text
        assert mqnode.json("sessions", "delete", session, "--yes") == {"deleted": session}
        farewell = client.expect_closed()
        assert farewell is not None
        assert farewell.reason == ADMINISTRATIVE_ACTION
    assert not exists(mqnode, "sessions", "show", session)


def test_kick_a_client_without_a_durable_session(broker: Broker, mqnode: Command) -> None:
    with Client(broker.port) as client:
        client.connect("kicked")
        client.subscribe("a", "b")
        text = mqnode.fails("clients", "kick", "kicked", typed="n\n", code=1)
        assert "2 subscriptions and 0 messages on the way to it will be lost" in text
        client.nothing()
        assert mqnode("clients", "kick", "kicked", typed="y\n").returncode == 0
        farewell = client.expect_closed()
        assert farewell is not None
        assert farewell.reason == ADMINISTRATIVE_ACTION
    assert "no client 'kicked' is connected" in mqnode.fails("clients", "kick", "kicked", "--yes", code=1)


def test_kick_keeps_a_durable_session(broker: Broker, mqnode: Command, session: str) -> None:
    with Client(broker.port) as client:
        client.connect(session, clean=False, session_expiry=600)
        assert "Its session with subscriptions and queue stays" in mqnode.fails("clients", "kick", session, code=2)
        assert mqnode.json("clients", "kick", session, "--yes") == {"kicked": session}
    wait_for(lambda: not mqnode.json("sessions", "show", session)["connected"])
    assert mqnode.json("sessions", "show", session)["queued_messages"] == 1


def test_a_host_that_is_alone_has_nobody_to_give_clients_to(mqnode: Command) -> None:
    for more in ((), ("--json",)):
        assert "clients would have nowhere to go" in mqnode.fails("cluster", "rebalance", *more, code=1)


def test_delete_a_retained_message(broker: Broker, mqnode: Command) -> None:
    with Client(broker.port) as client:
        client.connect("")
        client.publish_all("doomed/topic", b"four", 1, retain=True)
    text = mqnode.fails("retained", "delete", "doomed/topic", typed="n\n", code=1)
    assert "(4 B, published by user -) will be lost" in text
    assert exists(mqnode, "retained", "get", "doomed/topic")
    assert mqnode.json("retained", "delete", "doomed/topic", "--yes") == {"deleted": "doomed/topic"}
    assert not exists(mqnode, "retained", "get", "doomed/topic")
    assert "has no retained message" in mqnode.fails("retained", "delete", "doomed/topic", "--yes", code=1)
    keeper = broker.pid("keeper")
    mqnode.fails("retained", "delete", "", "--yes", code=1)
    assert broker.get("/ready")[0] == 200
    assert broker.pid("keeper") == keeper
