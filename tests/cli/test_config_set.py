"""`mqnode config set --all` and `unset --all` on one host: what is refused, what is logged, and when it has its effect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.broker import Broker, running, wait_for
from tests.cli.command import Command
from tests.mqtt import Client

KEY, OTHER = "limits.receive_maximum", "limits.max_queued_messages"


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running(workers=1, environ={"MQNODE_LIMITS__MAX_QUEUED_MESSAGES": "3"}) as broker:
        yield broker


def receive_maximum(broker: Broker) -> int:
    with Client(broker.port) as client:
        return int(client.connect("c").properties["receive_maximum"])


def listens(broker: Broker) -> bool:
    with suppress(OSError), Client(broker.port):
        return True
    return False


def told(broker: Broker) -> list[tuple[str, object, object, str]]:
    lines = [json.loads(line) for line in broker.log().splitlines() if '"cluster_value_set"' in line]
    return [(each["key"], each["before"], each["after"], each["by"].rpartition("@")[2]) for each in lines]


def origin(mqnode: Command, key: str) -> object:
    return mqnode.json("config", "show", "--origin")[key]["origin"]


def test_what_is_refused_changes_nothing(broker: Broker) -> None:
    mqnode = Command(broker.config)
    assert "add --all" in mqnode.fails("config", "set", KEY, "7", code=2)
    assert "add --all" in mqnode.fails("config", "unset", KEY, code=2)
    for key, value, why in (
        (KEY, "0", "integer, 1 to 65535"),
        ("limits.recieve_maximum", "7", "Did you mean receive_maximum?"),
        ("node.workers", "2", "each host has its own"),
        ("cluster.ack_policy", "strict", "interconnect"),
    ):
        text = mqnode.fails("config", "set", key, value, "--all", code=1)
        assert why in text, text
        assert "othing was changed" in text, text
    assert "is not set for all hosts" in mqnode.fails("config", "unset", KEY, "--all", code=1)
    assert told(broker) == []


def test_it_is_in_force_after_a_restart_and_told_until_then(broker: Broker) -> None:
    mqnode = Command(broker.config)
    done = mqnode("config", "set", KEY, "7", "--all")
    assert done.stdout.splitlines() == [
        f"{KEY} was 1024 on this host, and will be 7.",
        f"Without effect before a restart of each host: {KEY}",
    ]
    answer = mqnode.json("config", "set", OTHER, "5", "--all")
    assert answer["overridden_here_by"] == "MQNODE_LIMITS__MAX_QUEUED_MESSAGES"
    assert told(broker) == [(KEY, None, 7, "n1"), (OTHER, None, 5, "n1")]
    assert origin(mqnode, KEY) == "cluster"
    assert KEY in broker.get("/v1/reload", method="POST")[1]["need_restart"]
    assert receive_maximum(broker) == 1024
    broker.kill_all()
    broker.start()
    assert receive_maximum(broker) == 7
    assert broker.get("/v1/reload", method="POST")[1]["need_restart"] == []
    assert "max_queued_messages = 3\n" in (broker.run_dir / "mqnode.toml").read_text()
    assert mqnode.json("config", "set", KEY, "6", "--all")["before"] == 7
    broker.replace("worker-0")
    broker.wait_ready()
    assert wait_for(lambda: listens(broker) and receive_maximum(broker)) == 7, "of the start, as its siblings"
    assert mqnode.json("config", "unset", KEY, "--all")["after"] == 1024
    assert told(broker)[2:] == [(KEY, 7, 6, "n1"), (KEY, 6, None, "n1")]
    assert origin(mqnode, KEY) == "default"
