"""Each event of the log is one line and one write, whoever logs it: processes that share a pipe cannot mix theirs."""

from __future__ import annotations

import ast
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

EVENTS = """
import logging
from node import log
from node.config import Log
log.setup(Log(format={format!r}), "worker-1")
log.logger("worker", worker=1).info("ready", listeners=["127.0.0.1:1883", "odd, name"], what=None)
logging.getLogger("websockets.server").warning("somebody else's %s", "event")
log.access("subscribe", client_id="a b\\n", filters=["$share/g/+/#"])
try:
    1 / 0
except ZeroDivisionError:
    log.logger("worker").exception("broken")
"""
TEXT = [
    " info worker-1 ready listeners=127.0.0.1:1883,'odd, name' what=-",
    ' warning worker-1 "somebody else\'s event"',
    " info worker-1 subscribe client_id='a b\\n' filters=$share/g/+/#",
]


def written(format: str) -> list[str]:
    """What is written to stderr, write by write."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        subprocess.run([sys.executable, "-c", EVENTS.format(format=format)], stderr=theirs, check=True, timeout=20)
        ours.setblocking(False)
        return [ours.recv(1 << 16).decode() for _ in range(4)]


@pytest.mark.parametrize("format", ["json", "text"])
def test_an_event_is_one_line_and_one_write(format: str) -> None:
    lines = written(format)
    assert all(line.index("\n") == len(line) - 1 for line in lines)
    if format == "json":
        events = [json.loads(line) for line in lines]
        assert [each["event"] for each in events] == ["ready", "somebody else's event", "subscribe", "broken"]
        assert all(next(iter(each)) == "time" and each["process"] == "worker-1" for each in events)
    else:
        assert [line[len("2026-11-21T08:52:04.546Z") : -1] for line in lines[:3]] == TEXT
    assert "ZeroDivisionError" in lines[3]


def calls(path: Path, *names: str) -> Iterator[tuple[str, str, set[str]]]:
    """Method, event and fields of the calls of these methods."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
            event = next((str(each.value) for each in node.args if isinstance(each, ast.Constant)), "")
            yield node.func.attr, event, {each.arg or "" for each in node.keywords}


TELL_ALL_IN_CAUSE = {"store_unusable", "config_unusable"}  # texts of a StoreError or ConfigError


@pytest.mark.parametrize("path", sorted((ROOT / "node").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_wrong_is_told_with_effect_and_next_step(path: Path) -> None:
    for method, event, fields in calls(path, "warning", "error", "critical", "exception"):
        if event not in TELL_ALL_IN_CAUSE:
            assert fields >= {"effect", "next"}, event
        # the trace of an exception is its cause; a missing process or keeper, and a changed key, are causes themselves
        assert (
            "cause" in fields
            or method == "exception"
            or event in ("keeper_lost", "config_change_waits", "peer_evicted")
        )


def test_the_events_of_the_access_log_are_documented() -> None:
    used = {event for path in (ROOT / "node").rglob("*.py") for _, event, _ in calls(path, "access")} - {""}
    page = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    assert used == set(
        re.findall(r"^\| `(\w+)` \|", page[page.index("## Logs") : page.index("## Clients")], re.MULTILINE)
    )
