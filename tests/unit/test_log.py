"""Each event of the log is one line and one write, whoever logs it: processes that share a pipe cannot mix theirs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

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
