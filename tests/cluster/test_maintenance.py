"""Hosts are stopped one after the other behind HAProxy, as an operator does it: drained, restarted, and `check insync` between.
At last one of the two leaves."""

from __future__ import annotations

import json
import re
import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime

import pytest

from tests.broker import busy, wait_for
from tests.cluster.balancer import Balancer
from tests.cluster.hosts import MESH, TIMEOUT_S, Host, in_sync, join, running_hosts
from tests.cluster.network import Network
from tests.faults.ledger import Ledger
from tests.faults.test_kill import SEED
from tests.mqtt import DISCONNECT, PINGREQ, PINGRESP, Client, Packet, packet

DRAIN_S = 4
GAP_S = 8.0  # what a client may be without an answer while a host is stopped
COUNT, RATE = 150, 50


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    environ = {"MQNODE_NODE__DRAIN_S": str(DRAIN_S)}
    with Network("h1", "h2") as network, running_hosts(network, interconnect=MESH, environ=environ) as (first, second):
        join(first, second)
        yield first, second


def test_check_insync_says_whether_the_next_host_may_be_stopped(pair: tuple[Host, Host]) -> None:
    first, second = pair
    assert first.mqnode("check", "insync").stdout == "insync: yes\n"
    second.kill_all()
    wait_for(lambda: first.get("/insync")[0] == 503, 10)
    asked = first.mqnode("check", "insync")
    assert asked.returncode == 1
    assert "0 of 1 other hosts are in sync" in asked.stdout
    assert first.get("/ready")[0] == 200, "who is alone serves"
    refused = first.mqnode("leave")
    assert refused.returncode == 1
    assert "nowhere to go" in refused.stderr
    second.start()
    in_sync(first, second)
    wait_for(lambda: first.mqnode("check", "insync").returncode == 0, 20)


def test_a_drained_host_tells_its_clients_where_to_go(pair: tuple[Host, Host]) -> None:
    """Rows 89, 91: at the second attempt. It stays a member, and may be told to serve again."""
    first, second = pair
    clients = [first.client(5) for _ in range(4)] + [first.client(4)]
    for number, client in enumerate(clients):
        client.connect(f"c{number}", will=("gone", b"c", 1, False))
    late = first.mqnode("cluster", "drain", "--grace", "60", "-t", "0.5")
    assert late.returncode == 1
    assert late.stderr == (
        "It has not been drained: it did not get through in 0.5 s, while waiting, 5 clients here. "
        "Again, with more time: mqnode cluster drain -t SECONDS\n"
    )
    assert "drained: 5 clients are left. It may be stopped, or: mqnode cluster drain --cancel" in late.stdout
    drained = first.mqnode("cluster", "drain", "--grace", "0", "-t", "20")
    assert drained.returncode == 0, drained.stderr
    for client in clients[:4]:
        packet = client.receive()
        assert (packet.kind, packet.reason) == (DISCONNECT, 0x9C)
        assert packet.properties["server_reference"] == f"{second.address}:{second.port}"
    with second.client() as watcher:
        watcher.connect()
        watcher.subscribe(("gone", 1))
        for number in range(5):
            with second.client() as client:
                client.connect(f"c{number}")
        watcher.nothing(1)
    assert first.mqnode("cluster", "drain", "--cancel").returncode == 0
    wait_for(lambda: first.get("/ready")[0] == 200, 10)
    for client in clients:
        client.close()


def test_clients_above_the_share_of_a_host_go_to_the_other_one(pair: tuple[Host, Host]) -> None:
    """Row 104."""
    first, second = pair
    clients = [first.client(5) for _ in range(5)]
    for number, client in enumerate(clients):
        client.connect(f"c{number}")

    def counts(host: Host) -> list[int]:
        nodes = json.loads(host.mqnode("cluster", "status", "--json").stdout)["nodes"]
        return [node["clients"] for node in nodes]

    wait_for(lambda: counts(first) == [5, 0] == counts(second))
    least = second.mqnode("cluster", "rebalance")
    assert (least.returncode, "h1 has 5" in least.stdout) == (0, True), least.stderr
    done = first.mqnode("cluster", "rebalance", "--rate", "20")
    assert done.returncode == 0, done.stderr
    assert "3 each if all had as many" in done.stdout
    assert "moved: 2 of 2. h1 has 3 clients now." in done.stdout
    sent = [each for client in clients if (each := gone(client)) is not None]
    assert [(each.kind, each.reason) for each in sent] == [(DISCONNECT, 0x9C)] * 2
    assert {each.properties["server_reference"] for each in sent} == {f"{second.address}:{second.port}"}
    assert first.get("/ready")[0] == 200
    again = [second.client(5) for _ in sent]
    for number, client in enumerate(again):
        client.connect(f"again{number}")
    wait_for(lambda: counts(first) == [3, 2] == counts(second))
    assert "nothing to do" in first.mqnode("cluster", "rebalance").stdout
    for client in clients + again:
        client.close()


def gone(client: Client) -> Packet | None:
    """What it was sent away with; None: it is still connected."""
    client.send(packet(PINGREQ << 4))
    answer = client.receive()
    return None if answer.kind == PINGRESP else answer


def test_a_balancer_leaves_the_clients_of_a_drained_host_to_it(pair: tuple[Host, Host]) -> None:
    """Row 89: all are told to go, at the rate. Those who come meanwhile get the other host, and none is refused."""
    first, second = pair
    with Balancer(pair, by_client_id=False) as balancer, ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        clients = [stack.enter_context(each) for each in clients_of(balancer, first, COUNT)]
        draining = pool.submit(first.mqnode, "cluster", "drain", "--grace", "1", "--rate", str(RATE))
        wait_for(lambda: balancer.up() == {"h2"}, 10, first.log)
        assert (first.get("/ready")[0], first.get("/balancer")[0]) == (503, 404)
        stack.enter_context(balancer.client()).connect("late")
        assert second.get("/v1/clients/late")[0] == 200
        went = departures(clients)
        assert [reason for _, reason in went] == [0x9C] * COUNT
        assert went[-1][0] - went[0][0] > COUNT / RATE * 0.8
        assert draining.result().returncode == 0, draining.result().stderr
        assert first.mqnode("cluster", "drain", "--cancel").returncode == 0
        wait_for(lambda: balancer.up() == {"h1", "h2"}, 10, first.log)


def clients_of(balancer: Balancer, host: Host, count: int) -> list[Client]:
    """Connected to that host, behind the balancer."""
    others = [each.name for each in balancer.hosts if each is not host]
    for name in others:
        balancer.ask(f"set server mqnode/{name} state drain")
    assert balancer.up() == {host.name}
    clients = [balancer.client() for _ in range(count)]
    for client in clients:
        client.connect()
    for name in others:
        balancer.ask(f"set server mqnode/{name} state ready")
    return clients


def departures(clients: list[Client]) -> list[tuple[float, int | None]]:
    """When each connection ended, and the reason that the client was told; None: it was cut."""
    waiting, ends = {each.socket: each for each in clients}, []
    while waiting:
        ending, _, _ = select.select(list(waiting), [], [], TIMEOUT_S)
        assert ending, f"{len(waiting)} of {len(clients)} are still connected"
        for each in ending:
            said = waiting.pop(each).expect_closed()
            ends.append((time.monotonic(), said and said.reason))
    return ends


def test_a_stop_sends_everybody_away_in_its_time(pair: tuple[Host, Host]) -> None:
    """By SIGTERM: in the time of node.drain_s all are told to use another host, and none that the server shuts down. Balancers
    may notice before, and cut nobody; the other host is not stormed."""
    first, second = pair
    with Balancer(pair) as balancer, ThreadPoolExecutor(1) as pool:
        clients = clients_of(balancer, first, 40)
        began_s = time.monotonic()
        stopping = pool.submit(first.stop)
        wait_for(lambda: first.get("/ready")[0] == 503, 10, first.log)
        assert stopping.result() == 0
        assert time.monotonic() - began_s < (DRAIN_S + 5) * busy()
        assert [reason for _, reason in departures(clients)] == [0x9C] * 40
    said = [json.loads(line) for line in first.log().splitlines() if line.startswith("{")]
    at_s = [datetime.fromisoformat(each["time"]).timestamp() for each in said]
    waiting_s = max(at for at, each in zip(at_s, said, strict=True) if each.get("phase") == "waiting")
    closed_s = max(at for at, each in zip(at_s, said, strict=True) if each["event"] == "listeners_closed")
    went_s = [at for at, each in zip(at_s, said, strict=True) if each["event"] == "disconnect" and at > waiting_s]
    assert waiting_s <= closed_s < went_s[0]
    assert went_s[0] - waiting_s >= DRAIN_S / 4
    assert went_s[-1] - went_s[0] > DRAIN_S / 4
    for client in clients:
        client.close()
    first.start()
    in_sync(first, second)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("by_client_id", [True, False], ids=["by_client_id", "in_turn"])
def test_both_hosts_are_restarted_and_nobody_notices(pair: tuple[Host, Host], by_client_id: bool) -> None:
    """Rows 32, 107: no message is lost, no session is gone, and no client waits for long."""
    with Balancer(pair, by_client_id=by_client_id, port=1883 + by_client_id) as balancer:
        ledger = Ledger(balancer.client, SEED + by_client_id, rate=40.0, fickle=0.0)
        ledger.start()
        longest_s = 0.0
        for host, other in (pair, pair[::-1]):
            ledger.wait_acked(20)
            wait_for(lambda host=host: host.mqnode("check", "insync").returncode == 0, 30, other.log)
            host.process.send_signal(15)
            longest_s = max(longest_s, longest_gap(ledger, host))
            host.start()
            wait_for(lambda host=host: balancer.up() == {each.name for each in pair}, 20, host.log)
        print(f"longest gap {longest_s:.1f} s")
        ledger.settle(60)
        assert longest_s < GAP_S * busy()


def longest_gap(ledger: Ledger, host: Host) -> float:
    """Until the host has ended: the longest time without an acknowledgement to a publisher."""
    before = {each.name: (len(each.acked), time.monotonic()) for each in ledger.publishers}
    longest_s, ended_s = 0.0, 0.0
    while not ended_s or time.monotonic() < ended_s + 1:
        time.sleep(0.02)
        now_s = time.monotonic()
        if not ended_s and host.process is not None and host.process.poll() is not None:
            ended_s = now_s
        for each in ledger.publishers:
            count, since_s = before[each.name]
            longest_s = max(longest_s, now_s - since_s)
            if len(each.acked) > count:
                before[each.name] = (len(each.acked), now_s)
    return longest_s


def test_a_leave_waits_for_the_only_other_host_and_loses_nothing(pair: tuple[Host, Host]) -> None:
    """Row 88. It has messages that it acknowledged alone."""
    first, second = pair
    with second.client() as client:
        client.connect("away", clean=False, session_expiry=600)
        client.subscribe(("away/#", 1))
    with first.client() as client, ThreadPoolExecutor(1) as pool:
        client.connect()
        leaving = pool.submit(first.mqnode, "leave", "--grace", "60", "-i", "0.1")
        wait_for(lambda: first.get("/v1/drain")[1]["phase"] == "waiting", 10, first.log)
        with second.standing_still():
            for number in range(3):
                client.publish_all("away/x", b"%d" % number, 1)  # after the eviction, alone
            client.publish_all("away/kept", b"kept", 1, retain=True)
            client.close()
            wait_for(lambda: first.get("/v1/drain")[1]["behind"] == ["h2"], 10, first.log)
            with pytest.raises(TimeoutError):
                leaving.result(1)
        done = leaving.result()
    assert done.returncode == 0, done.stderr
    assert re.search(r"^copying: 0 clients, \d+ sessions? to hand over, waiting for h2$", done.stdout, re.MULTILINE)
    first.kill_all()
    with second.client() as client:
        assert client.connect("away", clean=False, session_expiry=600).session_present
        assert [client.take().payload for _ in range(4)] == [b"0", b"1", b"2", b"kept"]
        client.subscribe(("+/kept", 0))
        assert client.take().retain
