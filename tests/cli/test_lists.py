"""Tables for people, JSON for programs, and lists that are longer than a page."""

from __future__ import annotations

import re

import pytest

from node.cli import api
from tests.broker import Broker, wait_for
from tests.cli.command import Command
from tests.cli.conftest import HOSTILE, QUEUED
from tests.mqtt import Client

KEYS = {
    ("sessions", "list"): {
        "client_id", "user", "connected", "worker", "node", "created_at", "disconnected_at", "expiry_s",
        "queued_messages", "queued_bytes",
    },
    ("clients", "list"): {
        "client_id", "user", "address", "listener", "version", "keepalive_s", "connected_at", "worker", "durable",
        "expiry_s", "subscriptions", "inflight", "waiting", "output_bytes", "paused",
    },
    ("retained", "list"): {"topic", "qos", "user", "bytes", "received_at", "expires_at"},
    ("topics", "match", "queue/all"): {"client_id", "qos", "durable", "connected", "worker", "shares"},
}  # fmt: skip


@pytest.mark.parametrize("arguments", KEYS)
def test_keys_are_stable(mqnode: Command, arguments: tuple[str, ...]) -> None:
    found = mqnode.json(*arguments)
    assert found
    for each in found:
        assert set(each) == KEYS[arguments]


def test_table_of_sessions(mqnode: Command) -> None:
    header, *rows = mqnode("sessions", "list").stdout.splitlines()
    assert re.split(r"  +", header) == ["CLIENT ID", "USER", "HOST", "WORKER", "QUEUED", "BYTES", "EXPIRY"]
    assert len(rows) == len(HOSTILE)
    row = next(row for row in rows if row.startswith("plain "))
    assert re.split(r"  +", row)[:5] == ["plain", "-", "n1", "-", str(QUEUED)]
    assert row.endswith("1 h")


def test_status(mqnode: Command) -> None:
    found = mqnode.json("status")
    assert found["ready"]
    assert found["sessions"] == len(HOSTILE)
    assert found["retained_messages"] == len(HOSTILE) + 1
    assert found["queued_messages"] == QUEUED * len(HOSTILE)
    seen = mqnode("status").stdout
    assert seen.startswith("n1 is ready, mqnode ")
    assert re.search(rf"^sessions +{len(HOSTILE)}$", seen, re.MULTILINE)
    assert re.search(r"^worker-1 +\d+ +runs", seen, re.MULTILINE)


def test_match_names_the_members_of_shared_groups(broker: Broker, mqnode: Command) -> None:
    with Client(broker.port) as one, Client(broker.port) as two:
        one.connect("one", clean=False, session_expiry=0)
        one.subscribe("$share/crew/sharing/+", "$share/night/sharing/#")
        two.connect("two")
        two.subscribe("$share/crew/sharing/+", ("sharing/now", 1))
        found = {each["client_id"]: each for each in mqnode.json("topics", "match", "sharing/now")}
        assert {name: (each["shares"], each["qos"]) for name, each in found.items()} == {
            "one": (["crew", "night"], 0), "two": (["crew"], 1),
        }  # fmt: skip
        assert "crew, night" in mqnode("topics", "match", "sharing/now").stdout
    wait_for(lambda: mqnode.json("topics", "match", "sharing/now") == [])


def test_a_filter_that_is_none_is_refused(mqnode: Command) -> None:
    for filter, why in (("a/#/b", "# stands alone"), ("a+", "+ stands alone"), ("", "1 to 65535 bytes")):
        assert why in mqnode.fails("retained", "list", filter, code=2)


def test_match_and_limit(mqnode: Command) -> None:
    assert [each["client_id"] for each in mqnode.json("sessions", "list", "--match", "pl*")] == ["plain"]
    assert len(mqnode.json("sessions", "list", "--limit", "4")) == 4
    assert len(mqnode.json("retained", "list", "--limit", "4")) == 4
    assert len(mqnode.json("clients", "list", "--limit", "1")) == 1
    assert {each["topic"] for each in mqnode.json("retained", "list", "a/#")} == {"a/b/"}
    assert [each["topic"] for each in mqnode.json("retained", "list", "text")] == ["text"]
    assert mqnode("sessions", "list", "--match", "nobody").stdout == "There is no durable session.\n"
    assert mqnode.json("sessions", "list", "--match", "nobody") == []


def test_narrow_terminals(mqnode: Command) -> None:
    """Columns shrink; when they cannot, each row gets lines of its own."""
    code, seen = mqnode.on_terminal("clients", "list", columns=70, NO_COLOR="1")
    assert code == 0
    assert max(map(len, seen.splitlines())) <= 70
    assert "…" in seen
    code, seen = mqnode.on_terminal("clients", "list", columns=30, NO_COLOR="1")
    assert code == 0
    assert re.search(r"^CLIENT ID +live\\x1b\[2J$", seen, re.MULTILINE)


@pytest.mark.parametrize("size", [1, 3, len(HOSTILE), 1000])
def test_pages(broker: Broker, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """However many requests a list takes, it holds everything once."""
    monkeypatch.setattr(api, "PAGE", size)
    with api.Api(str(broker.config)) as asked:
        sessions = asked.pages("v1", "sessions", key="client_id", limit=None, match="*")
        topics = asked.pages("v1", "retained", key="topic", limit=None, filter="#")
        clients = asked.pages("v1", "clients", key="client_id", limit=None, match="*")
        below = asked.pages("v1", "retained", key="topic", limit=None, filter="a/#")
        first = asked.pages("v1", "sessions", key="client_id", limit=5, match="*")
    assert sorted(each["client_id"] for each in sessions) == sorted(HOSTILE)
    assert sorted(each["topic"] for each in topics) == sorted([*HOSTILE, "text"])
    assert len({each["client_id"] for each in clients}) == len(clients) >= 1
    assert [each["topic"] for each in below] == ["a/b/"]
    assert len(first) == 5
