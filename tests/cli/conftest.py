"""A host for each module of tests: durable sessions, a live client and retained messages, with hostile names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker import Broker, running
from tests.cli.command import Command
from tests.mqtt import Client

HOSTILE = (
    "plain", "with space", "new\nline", "esc\x1b[31mred\x1b]0;title\x07", "c1\x9b31m", "del\x7f", "ünï/cödé", "日本語",
    "\u202eright to left", "50%25", "%", "a/b/", "/lead", "//", "..", "back\\slash", "q?x=1&y;z", "'\"`$(id)", "-dash",
)  # fmt: skip
LIVE = "live\x1b[2J"
QUEUED = 3


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running() as broker:
        for name in HOSTILE:
            _leave_session(broker, name)
        with Client(broker.port) as publisher:
            publisher.connect("publisher")
            for number in range(QUEUED):
                publisher.publish_all("queue/all", b"%d" % number, 1)
            for topic in HOSTILE:
                publisher.publish_all(topic, topic.encode() + b"\0\xff", 1, retain=True)
            publisher.publish_all("text", b"21.5", 1, retain=True)
            publisher.disconnect()
        with Client(broker.port) as live:
            live.connect(LIVE)
            live.subscribe("live/+", ("queue/#", 2))
            yield broker


def _leave_session(broker: Broker, name: str) -> None:
    with Client(broker.port) as client:
        client.connect(name, clean=False, session_expiry=3600)
        client.subscribe(("queue/#", 1), f"own/{name}", subscription_identifier=7)
        client.disconnect()


@pytest.fixture(scope="module")
def mqnode(broker: Broker) -> Command:
    return Command(broker.config)
