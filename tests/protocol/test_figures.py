"""What a host says of itself, in /metrics and under $SYS, is what its clients did."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from storage.layout import open_environment
from tests.broker import Broker, free_port, running, wait_for
from tests.mqtt import Client
from tests.unit.certificates import DAY, NOW, Authority

DURABLE = {"clean": False, "session_expiry": 100}
Host = tuple[Broker, Authority]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    certificate, key = authority.issue("server", "localhost", days=30)
    listener = f'type = "tls"\nbind = "127.0.0.1:{free_port()}"\ncertificate = "{certificate}"\nkey = "{key}"\n'
    with running(f'[[listeners]]\nname = "lock"\n{listener}[sys]\ninterval_s = 1\n') as broker:
        yield broker, authority


def test_the_end_of_the_certificate_in_use_is_told(host: Host) -> None:
    broker, authority = host
    series = 'mqnode_cert_expiry_timestamp_seconds{listener="lock"}'
    wait_for(lambda: broker.metric(series) == (NOW + 30 * DAY).timestamp())
    authority.issue("server", "localhost", days=90)
    assert broker.metric(series) == (NOW + 30 * DAY).timestamp()
    assert broker.process is not None
    broker.process.send_signal(signal.SIGHUP)
    wait_for(lambda: broker.metric(series) == (NOW + 90 * DAY).timestamp())


def test_a_read_of_the_store_is_counted_while_it_goes_on(host: Host) -> None:
    broker = host[0]
    wait_for(lambda: broker.metric("mqnode_store_readers") == 0)
    environment = open_environment(broker.data_dir / "store", 0, readonly=True)
    with environment.begin():
        wait_for(lambda: broker.metric("mqnode_store_readers") == 1)
    environment.close()
    wait_for(lambda: broker.metric("mqnode_store_readers") == 0)


def test_memory_is_told_under_sys(host: Host) -> None:
    """That which is the processes' own: a good part of what is resident, and never all of it."""
    broker = host[0]
    told: dict[str, int] = {}
    with Client(broker.port) as client:
        client.connect("heap")
        client.subscribe("$SYS/broker/heap/+")
        while len(told) < 2:
            message = client.take()
            told[message.topic] = int(message.payload)
    names = ("keeper", "admin", "worker-0", "worker-1")
    resident = sum(broker.metric(f'mqnode_process_resident_bytes{{process="{name}"}}') for name in names)
    assert resident / 4 < told["$SYS/broker/heap/current"] <= told["$SYS/broker/heap/maximum"] < resident


def test_subscriptions_and_sessions_are_counted(host: Host) -> None:
    broker = host[0]
    with Client(broker.port) as live, Client(broker.port) as durable:
        live.connect("live")
        live.subscribe("a", "b/#", "$share/group/a")
        live.subscribe("a")  # anew
        live.unsubscribe("b/#", "never/there")
        durable.connect("durable", **DURABLE)
        durable.subscribe("a", "$share/group/a")
        with Client(broker.port) as away:
            away.connect("away", **DURABLE)
            away.subscribe("c")
        with Client(broker.port) as gone, Client(broker.port) as ended:
            gone.connect("gone")
            gone.subscribe("d", "$share/group/d")
            ended.connect("ended", **DURABLE)
            ended.subscribe("d", "$share/group/d")
            ended.disconnect(session_expiry=0)
        wanted = {
            "subscriptions/count": b"6", "shared_subscriptions/count": b"2", "clients/connected": b"2",
            "clients/disconnected": b"1", "clients/total": b"3",
        }  # fmt: skip
        live.subscribe("$SYS/broker/#")
        told: dict[str, bytes] = {}
        deadline = time.monotonic() + 20
        while {name: told.get(f"$SYS/broker/{name}") for name in wanted} != wanted:
            assert time.monotonic() < deadline, told
            message = live.take()
            told[message.topic] = message.payload
        for client in (live, durable):
            client.close()
        wait_for(lambda: broker.metric("mqnode_subscriptions") == 3)
        wait_for(lambda: broker.metric('mqnode_sessions{state="disconnected"}') == 2)
        assert broker.metric('mqnode_sessions{state="connected"}') == 0
        broker.signal("keeper", signal.SIGKILL)
        broker.signal("worker-0", signal.SIGKILL)
        wait_for(lambda: broker.metric('mqnode_worker_restarts_total{worker="0"}') == 1)
        broker.wait_ready()
        wait_for(lambda: broker.metric("mqnode_subscriptions") == 3)
        assert broker.metric('mqnode_sessions{state="disconnected"}') == 2
        assert broker.metric('mqnode_worker_restarts_total{worker="1"}') == 0
