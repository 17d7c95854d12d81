"""Whatever clients call themselves: it is found, shown escaped, and never reaches a terminal raw."""

from __future__ import annotations

import re
from base64 import b64decode

import pytest

from tests.broker import Broker
from tests.cli.command import Command
from tests.cli.conftest import HOSTILE, LIVE, QUEUED

LISTS = (("sessions", "list"), ("clients", "list"), ("retained", "list"), ("topics", "match", "queue/all"))
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("name", HOSTILE)
def test_session_of_any_name(mqnode: Command, name: str) -> None:
    found = mqnode.json("sessions", "show", "--", name)
    assert found["client_id"] == name
    assert found["queued_messages"] == QUEUED
    assert {each["filter"] for each in found["subscriptions"]} == {"queue/#", f"own/{name}"}


@pytest.mark.parametrize("topic", HOSTILE)
def test_retained_message_of_any_topic(mqnode: Command, topic: str) -> None:
    found = mqnode.json("retained", "get", "--", topic)
    assert found["topic"] == topic
    assert found["payload"] is None
    assert b64decode(found["payload_base64"]) == topic.encode() + b"\0\xff"


def test_client_of_any_name(mqnode: Command) -> None:
    found = mqnode.json("clients", "show", LIVE)
    assert found["client_id"] == LIVE
    assert sorted(each["filter"] for each in found["filters"]) == ["live/+", "queue/#"]


def test_lists_hold_every_name(mqnode: Command) -> None:
    assert {each["client_id"] for each in mqnode.json("sessions", "list")} == set(HOSTILE)
    assert {each["topic"] for each in mqnode.json("retained", "list")} == {*HOSTILE, "text"}
    assert {each["client_id"] for each in mqnode.json("topics", "match", "queue/all")} == {*HOSTILE, LIVE}
    assert LIVE in {each["client_id"] for each in mqnode.json("clients", "list")}


@pytest.mark.parametrize("arguments", [*LISTS, ("sessions", "show", HOSTILE[3]), ("clients", "show", LIVE)])
def test_nothing_reaches_the_terminal_raw(mqnode: Command, arguments: tuple[str, ...]) -> None:
    code, seen = mqnode.on_terminal(*arguments)
    assert code == 0
    assert "\x1b" in seen, "headers are bold on a terminal"
    plain = COLOURS.sub("", seen)
    assert all(each.isprintable() for each in plain.replace("\n", "")), plain
    assert "\x1b[31m" not in seen
    assert "\x1b" not in mqnode.on_terminal(*arguments, NO_COLOR="1")[1]
    piped = mqnode(*arguments).stdout
    assert all(each.isprintable() for each in piped.replace("\n", "")), piped


def test_errors_are_escaped(mqnode: Command) -> None:
    text = mqnode.fails("sessions", "show", "no\x1b[31m\nsuch", code=1)
    assert "\x1b" not in text
    assert text.count("\n") == 1


def test_names_that_are_not_utf8(mqnode: Command) -> None:
    assert "is not UTF-8" in mqnode.fails("sessions", "show", b"\xff", code=2)


def test_characters_that_the_terminal_does_not_know(mqnode: Command) -> None:
    seen = mqnode.raw("sessions", "list", PYTHONIOENCODING="latin-1").decode("latin-1")
    assert "ünï/cödé" in seen
    assert "\\u65e5" in seen


def test_longest_topic(broker: Broker, mqnode: Command) -> None:
    """4096 bytes are three times as long in a URL."""
    topic = "ü" * 2048
    assert "has no retained message" in mqnode.fails("retained", "get", topic, code=1)
    assert mqnode.json("topics", "match", topic) == []


def test_payload_byte_for_byte(mqnode: Command) -> None:
    assert mqnode.raw("retained", "get", "plain") == b"plain\0\xff"
    assert mqnode.raw("retained", "get", "text") == b"21.5"


def test_payload_on_a_terminal(mqnode: Command) -> None:
    topic = "esc\x1b[31mred\x1b]0;title\x07"
    assert mqnode.on_terminal("retained", "get", topic) == (0, "esc\\x1b[31mred\\x1b]0;title\\x07\\x00\\xff\n")
