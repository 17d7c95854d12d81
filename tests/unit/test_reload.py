"""An edited mqnode.toml and a running host: what waits for a restart is told, and no process gets half of it before."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.broker import Broker, running, wait_for
from tests.cli.command import Command


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running(workers=2) as broker:
        yield broker


def logged(broker: Broker, event: str) -> list[dict[str, str]]:
    lines = [line for line in broker.log().splitlines() if f'"event":"{event}"' in line]
    return [json.loads(line) for line in lines]


def test_a_changed_key_is_named_once(broker: Broker) -> None:
    edited = broker.config.read_text().replace("workers = 2", "workers = 3") + "[limits]\nmax_packet_bytes = 4096\n"
    broker.config.write_text(edited)
    assert broker.process is not None
    broker.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(logged(broker, "config_change_waits")) == 2)
    told = logged(broker, "config_change_waits")
    assert [each["key"] for each in told] == ["node.workers", "limits.max_packet_bytes"]
    assert {each["level"] for each in told} == {"warning"}
    assert {each["next"] for each in told} == {"systemctl restart mqnode"}
    waiting = ["node.workers", "limits.max_packet_bytes"]
    assert broker.get("/v1/reload", method="POST") == (200, {"errors": [], "need_restart": waiting})
    assert len(logged(broker, "config_change_waits")) == 4  # not from each worker
    done = Command(broker.config)("reload")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:] == [f"Without effect before a restart of the host: {', '.join(waiting)}"]


def test_an_unusable_file_is_told_and_kills_nothing(broker: Broker) -> None:
    broker.config.write_text("[node]\nworkrs = 2\n")
    status, answer = broker.get("/v1/reload", method="POST")
    assert status == 409
    assert answer["errors"][0].startswith(f"{broker.config}:2: node.workrs: unknown key")
    assert logged(broker, "config_unusable")
    broker.replace("worker-1")
    broker.wait_ready()  # the new one, with the configuration of the start
