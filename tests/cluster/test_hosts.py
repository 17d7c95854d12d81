"""Hosts in namespaces of their own behind HAProxy with deploy/haproxy.cfg. They know nothing of each other here."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from node.config.keys import Limits
from tests.broker import busy, wait_for
from tests.cluster.balancer import Balancer
from tests.cluster.hosts import Host, running_hosts
from tests.cluster.network import CLI, CLIENTS, INTERCONNECT, Network
from tests.faults.ledger import Ledger
from tests.mqtt import CONNACK, PINGREQ, PINGRESP, Client, Closed, connect_packet, packet

OUT_S = 3.0


@pytest.fixture(scope="module")
def hosts(network: Network) -> Iterator[list[Host]]:
    with running_hosts(network) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def by_client_id(hosts: list[Host]) -> Iterator[Balancer]:
    with Balancer(hosts) as balancer:
        yield balancer


@pytest.fixture(scope="module")
def in_turn(hosts: list[Host]) -> Iterator[Balancer]:
    with Balancer(hosts, by_client_id=False, port=1884) as balancer:
        yield balancer


def connected(balancer: Balancer, client_id: str) -> tuple[Client, str]:
    """A client, and the host that it was given."""
    client = balancer.client()
    client.connect(client_id)
    [home] = [host.name for host in balancer.hosts if host.get(f"/v1/clients/{client_id}")[0] == 200]
    return client, home


def home_of(balancer: Balancer, client_id: str) -> str:
    client, home = connected(balancer, client_id)
    client.disconnect()
    wait_for(lambda: all(host.get(f"/v1/clients/{client_id}")[0] == 404 for host in balancer.hosts))
    return home


def homes(balancer: Balancer, client_ids: list[str]) -> list[str]:
    return [home_of(balancer, client_id) for client_id in client_ids]


def test_a_client_id_has_its_host(by_client_id: Balancer) -> None:
    names = [f"c{number}" for number in range(8)]
    first = homes(by_client_id, names)
    assert set(first) == {"h1", "h2"}
    assert homes(by_client_id, names) == first


@pytest.mark.parametrize("version", [3, 4, 5])
def test_the_largest_connect_that_a_host_takes_passes_the_balancer_that_reads_it(
    by_client_id: Balancer, version: int
) -> None:
    """With what follows it, for clients need not wait for CONNACK."""
    will = ("gone", bytes(Limits().max_connect_bytes - 100), 0, False)
    with by_client_id.client(version) as client:
        client.send(connect_packet("large", version=version, will=will) + packet(PINGREQ << 4))
        assert client.expect(CONNACK).reason == 0
        client.expect(PINGRESP)
        client.disconnect()


def test_hosts_take_turns(in_turn: Balancer) -> None:
    assert sorted(homes(in_turn, ["same"] * 4)) == ["h1", "h1", "h2", "h2"]


def test_a_host_knows_its_clients_addresses(network: Network, by_client_id: Balancer, hosts: list[Host]) -> None:
    with by_client_id.client() as client:
        own = "{}:{}".format(*client.socket.getsockname())
        client.connect("known")
        [answer] = [found for host in hosts if (found := host.get("/v1/clients/known")[1]) and "address" in found]
    assert answer["address"] == own
    assert own.startswith(network.address(CLI))


def test_a_host_that_is_cut_off_is_taken_out_and_comes_back(network: Network, by_client_id: Balancer) -> None:
    clients = [connected(by_client_id, f"cut{number}") for number in range(8)]
    network.cut_clients("h2")
    began = time.monotonic()
    try:
        wait_for(lambda: by_client_id.up() == {"h1"}, OUT_S, lambda: f"up: {by_client_id.up()}")
        print(f"out after {time.monotonic() - began:.1f} s")
        for client, home in clients:
            if home == "h2":
                with pytest.raises(Closed):
                    client.receive()
            else:
                client.nothing(0)
        assert set(homes(by_client_id, [f"after{number}" for number in range(8)])) == {"h1"}
    finally:
        network.heal()
    wait_for(lambda: by_client_id.up() == {"h1", "h2"}, OUT_S)


def test_clients_of_a_killed_host_are_served_by_the_other_at_once(
    by_client_id: Balancer, in_turn: Balancer, hosts: list[Host]
) -> None:
    """Before any check has found out."""
    both = (by_client_id, in_turn)
    assert [balancer.ask("disable health mqnode/h2").strip() for balancer in both] == ["", ""]
    hosts[1].kill_all()
    try:
        for balancer in both * 4:
            began = time.monotonic()
            with balancer.client() as client:
                client.connect()
            assert time.monotonic() - began < 0.5 * busy()
    finally:
        hosts[1].start()
        assert [balancer.ask("enable health mqnode/h2").strip() for balancer in both] == ["", ""]
    wait_for(lambda: by_client_id.up() == in_turn.up() == {"h1", "h2"}, OUT_S)


def test_captures_tell_the_two_sides_apart(network: Network, hosts: list[Host]) -> None:
    with (
        network.capture("h1", CLIENTS) as outer,
        network.capture("h1", INTERCONNECT) as inner,
        hosts[0].client() as client,
    ):
        client.connect("captured")
        client.publish_all("captured", b"x" * 1000)
        counts = outer.read()
        to_host = sum(size for flow, size in counts.bytes.items() if flow.target == (hosts[0].address, hosts[0].port))
        assert 1000 < to_host < 1200
        assert not inner.read().frames


def test_the_command_line_runs_on_a_host(hosts: list[Host]) -> None:
    for host in hosts:
        assert host.mqnode("status").stdout.startswith(f"{host.name} is ready")


def test_the_ledger_goes_through_the_balancer(network: Network, hosts: list[Host]) -> None:
    """Nothing is lost in a half-open connection; here to a host alone, for these two share no sessions."""
    with Balancer(hosts[:1], port=1885) as balancer:
        ledger = Ledger(balancer.client, random.SystemRandom().randrange(1 << 32), rate=50)
        ledger.start()
        ledger.wait_acked(10, timeout_s=10)
        network.cut_clients("h1")
        try:
            wait_for(lambda: not balancer.up(), OUT_S)
        finally:
            network.heal()
        ledger.wait_acked(10, ledger.acked(), timeout_s=10)
        ledger.settle()
        assert all(each.connects > 1 for each in ledger.publishers), ledger.summary()
