"""docs/acceptance.md behind HAProxy: clients know one address, the balancer knows nothing of MQTT."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_rows import durable, starts_of, talk
from tests.broker import Broker, free_port, running, wait_for
from tests.mqtt import Client, Closed
from tests.security.guarded import attempt

CHECKS = 10
HEAD = """
global
  maxconn 500
defaults
  mode tcp
  timeout connect 3s
  timeout client 1h
  timeout server 1h
"""
PROXY = """
frontend mqtt{number}
  bind 127.0.0.1:{front}
  default_backend hosts{number}
backend hosts{number}
  balance roundrobin
  server n1 127.0.0.1:{back} check inter 50ms {option}
"""
OPTIONS = ("", "send-proxy", "send-proxy-v2")  # plain TCP, and with either PROXY header, at a listener that demands it


class Behind:
    """A broker, and a port of HAProxy in front of it."""

    def __init__(self, broker: Broker, front: int) -> None:
        self.broker, self.port = broker, front


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Behind]]:
    """One for each of OPTIONS."""
    proxied, ports = free_port(), {option: free_port() for option in OPTIONS}
    more = f'[[listeners]]\ntype = "tcp"\nbind = "127.0.0.1:{proxied}"\nallow_anonymous = true\n'
    more += 'proxy_protocol = "required"\nproxy_networks = ["127.0.0.1"]\n'
    with running(more) as broker:
        file = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
        parts = [
            PROXY.format(number=number, front=ports[option], back=proxied if option else broker.port, option=option)
            for number, option in enumerate(OPTIONS)
        ]
        file.write_text(HEAD + "".join(parts))
        with haproxy(file):
            for port in ports.values():
                wait_for(lambda: _answers(port), 10)  # noqa: B023
            yield {option: Behind(broker, ports[option]) for option in OPTIONS}


@pytest.fixture(params=OPTIONS)
def behind(request: pytest.FixtureRequest, fronts: dict[str, Behind]) -> Behind:
    return fronts[request.param]


@contextlib.contextmanager
def haproxy(file: Path) -> Iterator[None]:
    process = subprocess.Popen(["haproxy", "-db", "-f", str(file)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError, Closed):
        return attempt(port).reason == 0
    return False


def test_its_checks_are_no_failed_clients(behind: Behind) -> None:
    """Row 68: connections that say nothing leave no line in the log, and no failed CONNECT in the metrics.

    HAProxy's plain check never completes its handshake; other balancers' do, so they are played here, too.
    """
    broker = behind.broker
    before, lines = broker.metric("mqnode_connections_closed_total"), len(broker.log().splitlines())
    for _ in range(CHECKS):
        socket.create_connection(("127.0.0.1", broker.port)).close()
        time.sleep(0.05)  # HAProxy's interval
    wait_for(lambda: broker.metric("mqnode_connections_closed_total") >= before + CHECKS, 10)
    # a process that was slow to start may say that it is ready
    assert [line for line in broker.log().splitlines()[lines:] if 'ready"' not in line] == []
    for series in ('connect_total{result="refused"}', 'auth_failures_total{method="password"}', "handler_errors_total",
                   'protocol_errors_total{kind="malformed"}', 'protocol_errors_total{kind="protocol"}'):  # fmt: skip
        assert broker.metric(f"mqnode_{series}") == 0, series


@pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv5"])
def test_clients_need_no_other_address(behind: Behind, version: str) -> None:
    """Rows 46, 69, 73."""
    talk(behind.broker, behind.port, version, "1")


def test_a_client_need_not_subscribe_again(behind: Behind) -> None:
    """Rows 57, 112: the balancer gives each connection to any worker, the session is there."""
    workers = set()
    with Client(behind.port) as first:
        first.connect("behind", **durable(5))
        first.subscribe(("behind", 1))
    with Client(behind.broker.port) as publisher:
        publisher.connect("publisher")
        for number in range(20):
            publisher.publish_all("behind", b"%d" % number)
            with Client(behind.port) as client:
                assert client.connect("behind", **durable(5)).session_present
                # The last PUBACK may still be on its way through the balancer; so may the end of the last connection,
                # which this message was sent to then
                while (found := client.take()).payload != b"%d" % number:
                    assert (found.dup, found.payload) == (True, b"%d" % (number - 1))
                workers.add(behind.broker.get("/v1/clients/behind")[1]["worker"])
    assert workers == {0, 1}


def test_the_log_has_the_address_of_the_client(behind: Behind, request: pytest.FixtureRequest) -> None:
    """Row 112: with a PROXY header it is the client's own, port and all."""
    with Client(behind.port) as client:
        own = "{}:{}".format(*client.socket.getsockname())
        name = own.replace(":", "-")
        client.connect(name)
        known = behind.broker.get(f"/v1/clients/{name}")[1]["address"]
    assert (known == own) == ("send-proxy" in request.node.name)
    lines = [json.loads(line) for line in behind.broker.log().splitlines() if f'"{name}"' in line]
    assert lines[0]["address"] == known


def test_a_worker_may_die_behind_it(behind: Behind) -> None:
    """Row 35 on one host: who was on the other worker keeps the connection; new ones are served at once."""
    broker = behind.broker
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(behind.port)) for _ in range(16)]
        for number, client in enumerate(clients):
            client.connect(f"c{number}")
        homes = {each["client_id"]: each["worker"] for each in broker.get("/v1/clients")[1]}
        stays = [client for number, client in enumerate(clients) if homes[f"c{number}"] == 1]
        starts = starts_of(broker, "worker-0")
        broker.signal("worker-0", 9)
        wait_for(lambda: _answers(behind.port), 3)
        for client in stays:
            client.nothing(0)
        wait_for(lambda: starts_of(broker, "worker-0") > starts)
