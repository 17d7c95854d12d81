"""`mqnode bench` against a host of two workers: every kind, every QoS, both protocols, and the exit codes."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from tests.broker import Broker, free_port, running, wait_for
from tests.cli.command import MQNODE, TIMEOUT_S, Command


@pytest.fixture
def at(broker: Broker) -> list[str]:
    return ["--port", str(broker.port)]


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_latency_keeps_the_ledger(mqnode: Command, at: list[str], qos: int, protocol: str) -> None:
    stats = mqnode.json(
        "bench", "latency", *at, "-c", "4", "--qos", str(qos), "--protocol", protocol, "--rate", "0",
        "--messages", "20000",
    )  # fmt: skip
    assert stats["received"] == stats["sent"] == 20000
    assert (stats["lost"], stats["missing"], stats["duplicates"], stats["reordered"]) == (0, 0, 0, 0)
    assert stats["acknowledged"] == (20000 if qos else 0)
    times = [stats["latency_us"][key] for key in ("min", "p50", "p90", "p99", "p99.9", "max")]
    assert times[0] > 0
    assert times == sorted(times)


def test_a_rate_is_kept(mqnode: Command, at: list[str]) -> None:
    stats = mqnode.json("bench", "latency", *at, "--rate", "1000", "--duration", "1")
    assert 950 <= stats["sent"] <= 1001


def test_connections(mqnode: Command, at: list[str]) -> None:
    done = mqnode("bench", "conn", *at, "-c", "500", "--source", "127.0.0.1", "--source", "127.0.0.2")
    assert done.returncode == 0, done
    assert "500 of 500" in done.stdout


def test_both_ends_in_two_processes(mqnode: Command, at: list[str]) -> None:
    subscriber = [
        MQNODE,
        "bench",
        "sub",
        *at,
        "--topic",
        "two/#",
        "--qos",
        "1",
        "--messages",
        "1000",
        "--duration",
        "15",
    ]
    with subprocess.Popen([*subscriber, "--prefix", "two"], stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:  # until it has subscribed and seen enough, or --duration is over
            done = mqnode("bench", "pub", *at, "--topic", "two/{i}/{n}", "--qos", "1", "--messages", "500")
            assert done.returncode == 0, done
        assert process.stdout is not None
        seen = process.stdout.read()
    assert process.returncode == 0, seen
    assert "lost 0, duplicate 0, reordered 0" in seen


def test_persistent_sessions_get_what_came_while_they_were_away(mqnode: Command, at: list[str]) -> None:
    mine = ["--topic", "away/{i}", "--qos", "1", "--persistent", "--prefix", "away"]
    mqnode.json("bench", "sub", *at, *mine, "--duration", "0.1")
    assert (
        mqnode.json("bench", "pub", *at, "--topic", "away/0", "--qos", "1", "--messages", "300")["unacknowledged"] == 0
    )
    stats = mqnode.json("bench", "sub", *at, *mine, "--messages", "300", "--duration", "10")
    assert (stats["received"], stats["sessions_present"], stats["lost"]) == (300, 1, 0)


def test_a_broker_that_closes_all_connections_ends_the_run() -> None:
    runs = (
        ["conn", "--duration", "60"],
        ["pub", "--qos", "1", "--messages", "900000000"],
        ["sub"],
        ["latency", "--duration", "60"],
    )
    with running(workers=1) as broker:
        started = [
            subprocess.Popen(
                [MQNODE, "bench", *run, "--port", str(broker.port), "--prefix", run[0]],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
            for run in runs
        ]  # fmt: skip
        try:
            wait_for(lambda: broker.get("/v1/status")[1]["clients_connected"] == len(runs) + 1)
            for qos in (0, 1):  # what was sent shows that these are past connecting
                wait_for(lambda qos=qos: broker.metric(f'mqnode_messages_total{{dir="in",qos="{qos}"}}'))
            broker.signal("worker-0", signal.SIGKILL)
            for process in started:
                _, said = process.communicate(timeout=TIMEOUT_S)
                assert process.returncode == 1, said
                assert re.search("connections closed by the broker|No connection to .* was accepted", said)
        finally:
            for process in started:
                process.kill()


def test_nobody_listens(mqnode: Command) -> None:
    said = mqnode.fails("bench", "latency", "--port", str(free_port()), code=1)
    assert "Connection refused" in said
    assert "Nothing was measured" in said


def test_a_filter_is_no_topic(mqnode: Command) -> None:
    for kind in ("pub", "latency"):
        assert "wildcard" in mqnode.fails("bench", kind, "--topic", "a/#", code=2)


def test_a_host_that_does_not_exist(mqnode: Command) -> None:
    assert "--host" in mqnode.fails("bench", "pub", "--host", "nowhere.invalid", code=2)


def test_a_terminal_sees_progress(mqnode: Command, at: list[str]) -> None:
    code, seen = mqnode.on_terminal("bench", "latency", *at, "--duration", "1")
    assert code == 0, seen
    assert "━" in seen
    assert "delivery p99.9" in seen
