"""Hosts that find each other: real ones, each in a network of its own, with no command but their start."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mesh import secret
from tests.broker import free_port, wait_for
from tests.cluster.boards import Etcd
from tests.cluster.hosts import Host, join
from tests.cluster.network import CLI, Network
from tests.faults.ledger import Ledger
from tests.faults.test_kill import SEED

FORMED_S = 15.0  # after all are ready; the promise is ten
Start = Callable[..., list[Host]]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network("h1", "h2", "h3", "h4", "h5") as network:
        yield network


@pytest.fixture
def start(network: Network, tmp_path: Path) -> Iterator[Start]:
    """Starts hosts of these names at once, with this [discovery]."""
    secret.create(tmp_path / "secret")
    with ExitStack() as stack:

        def started(discovery: str, *names: str, secret_file: Path | None = tmp_path / "secret") -> list[Host]:
            text = f'[interconnect]\nbind = "{{address}}:7001"\n[discovery]\ninterval_s = 1\n{discovery}\n'
            if secret_file is not None:
                text += f'secret_file = "{secret_file}"\n'
            hosts = [Host(network, name, interconnect=text) for name in names]
            for host in hosts:
                stack.callback(host.close)
            with ThreadPoolExecutor(len(hosts)) as pool:
                list(pool.map(Host.start, hosts))
            return hosts

        yield started
        network.heal()


def nodes(host: Host) -> dict[str, Any]:
    done = host.mqnode("cluster", "nodes", "--json")
    return json.loads(done.stdout) if done.returncode == 0 else {}


def members(host: Host) -> dict[str, str]:
    """Name and state of each, as this host sees them."""
    return {each["name"]: each["state"] for each in nodes(host).get("nodes", ())}


def formed(*hosts: Host) -> None:
    """All see all, up, in one cluster, and each is in sync."""
    wanted = {host.name: "up" for host in hosts}

    def one() -> bool:
        peers = [host.metric("mqnode_peers_in_sync") for host in hosts]
        return set(peers) == {len(hosts) - 1.0} and all(members(host) == wanted for host in hosts)

    wait_for(one, FORMED_S, lambda: "\n".join(f"{host.name} {members(host)}\n{host.log()}" for host in hosts))


def test_three_that_start_at_once_become_one_cluster(start: Start) -> None:
    hosts = start('method = "beacon"', "h1", "h2", "h3")
    formed(*hosts)
    assert not [line for host in hosts for line in host.errors()]


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["static", "beacon", "folder"])
def test_three_become_one_twenty_times(network: Network, start: Start, method: str, tmp_path: Path) -> None:
    names = network.hosts[:3]
    addresses = ", ".join(f'"{network.address(name, "x0")}:7001"' for name in names)
    for number in range(20):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        hosts = start(
            f'method = "{method}"\nfolder = "{folder}"\nmulticast = "239.192.77.81:{7000 + number}"\nhosts = [{addresses}]',
            *names,
        )
        formed(*hosts)
        for host in hosts:
            host.close()
        print(f"{method} {number}: one cluster", flush=True)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("others", [("h3", "h4"), pytest.param(("h3", "h4", "h5"), marks=pytest.mark.soak)])
def test_hosts_come_and_go_under_load(start: Start, others: tuple[str, ...], tmp_path: Path) -> None:
    """Row 113: two hosts, then several more, then two: each knows who is there, and no message is lost."""
    text = f'method = "folder"\nfolder = "{tmp_path}/hosts"'
    (tmp_path / "hosts").mkdir()
    stay = start(text, "h1", "h2")
    formed(*stay)
    serving, dice = list(stay), random.Random(SEED)
    ledger = Ledger(lambda version: dice.choice(serving).client(version), SEED, rate=40.0, fickle=2.0)
    ledger.start()
    come = start(text, *others)
    formed(*stay, *come)
    serving += come
    with ExitStack() as stack:
        clients = [stack.enter_context(host.client()) for host in come]
        for host, client in zip(come, clients, strict=True):
            client.connect(f"at-{host.name}", session_expiry=600)
            client.subscribe(("visitors", 1))
        ledger.wait_acked(20, ledger.acked())
        for host, client in zip(come, clients, strict=True):
            serving.remove(host)
            left = host.mqnode("leave", "--grace", "0")
            assert left.returncode == 0, left.stderr
            client.expect_closed()
    formed(*stay)
    with stay[0].client() as publisher, ExitStack() as stack:
        publisher.connect()
        publisher.publish_all("visitors", b"all")
        for host, name in zip(stay * 2, others, strict=False):
            client = stack.enter_context(host.client())
            assert client.connect(f"at-{name}", clean=False, session_expiry=600).session_present
            assert client.take().payload == b"all"
    ledger.wait_acked(20, ledger.acked())
    ledger.settle()
    assert set(members(stay[0])) == {"h1", "h2"}, "who has left does not come back by itself"
    assert {json.loads(each.read_text())["name"] for each in (tmp_path / "hosts").iterdir()} == {"h1", "h2"}


def test_etcd_with_a_dead_endpoint(network: Network, start: Start) -> None:
    """The first one serves alone, the next joins without a command, and the third finds it when the first is gone."""
    with Etcd(network.address(CLI), lambda call: network.inside(CLI, call)) as etcd:
        text = f'method = "etcd"\netcd = ["http://{network.address(CLI)}:{free_port()}", "{etcd.url}"]\netcd_prefix = "/hosts"'
        [h1] = start(text, "h1")
        with h1.client() as client:
            client.connect("alone")
            client.publish_all("alone", b"x", 1)
        wait_for(etcd.entries)
        [h2] = start(text, "h2")
        formed(h1, h2)
        entries = etcd.entries()
        h1.kill_all()
        gone = f"/hosts/{next(each['node_id'] for each in nodes(h2)['nodes'] if each['name'] == 'h1')}"
        assert gone in entries
        wait_for(lambda: gone not in etcd.entries(), 8, "its lease ends")
        [h3] = start(text, "h3")
        wait_for(lambda: members(h3) == members(h2) | {"h2": "up", "h3": "up"}, FORMED_S, h3.log)
        assert set(members(h3)) == {"h1", "h2", "h3"}
        h2.stop()
        assert [json.loads(each)["name"] for each in etcd.entries().values()] == ["h3"], "who stops takes its key along"


def test_a_list_of_addresses_needs_no_multicast(network: Network, start: Start) -> None:
    """One host of the list never starts, and only one host has a list that names the other. A beacon says that it hears nobody."""
    network.no_multicast()
    [silent] = start('method = "beacon"', "h3")
    addresses = ", ".join(f'"{address}:7001"' for address in (network.address("h1", "x0"), "10.78.0.9"))
    [h1] = start(f'method = "static"\nhosts = ["{network.address("h1", "x0")}:7001"]', "h1")
    [h2] = start(f'method = "static"\nhosts = [{addresses}]', "h2")
    formed(h1, h2)
    wait_for(lambda: "discovery_silent" in silent.log(), 30)
    assert "mqnode join" in silent.log()
    assert set(members(silent)) == {"h3"}


def test_a_place_that_cannot_be_written_is_said(start: Start, tmp_path: Path) -> None:
    """And a secret that is not there: the host serves alone after a while, and shows that its copies are missing."""
    (tmp_path / "hosts").touch()  # no folder
    [host] = start(f'method = "folder"\nfolder = "{tmp_path}/hosts"', "h1", secret_file=tmp_path / "later")
    assert host.metric("mqnode_degraded") == 1
    assert "the interconnect is not ready" in host.mqnode("status").stdout
    assert "later: the cluster secret cannot be read" in host.log()
    secret.create(tmp_path / "later")
    wait_for(lambda: "discovery_board" in host.log(), FORMED_S, host.log)
    wait_for(lambda: host.metric("mqnode_degraded") == 0)
    assert host.get("/v1/status")[1]["warnings"] == []
    assert {json.loads(line)["event"] for line in host.errors()} == {"interconnect_stopped"}  # no traceback beside it


def test_ports_of_discovery_that_are_taken_end_nothing(network: Network, start: Start) -> None:
    """Both hosts serve all the same, and become one cluster when the ports are free."""

    def taken(name: str, port: int) -> socket.socket:
        return network.inside(name, lambda: socket.create_server((network.address(name, "x0"), port)))

    addresses = [f"{network.address(name, 'x0')}:7001" for name in ("h1", "h2")]
    with taken("h1", 7003) as meeting, taken("h1", 7002) as one, taken("h2", 7002) as other:
        hosts = start(f'method = "static"\nhosts = {json.dumps(addresses)}', "h1", "h2")
        pids = [host.pid("interconnect") for host in hosts]
        wait_for(lambda: "discovery_closed" in hosts[0].log(), FORMED_S, hosts[0].log)
        meeting.close()
        wait_for(lambda: any(":7002 for other hosts: Address already in use" in host.log() for host in hosts), FORMED_S)
        assert [set(members(host)) for host in hosts] == [{"h1"}, {"h2"}]
        one.close()
        other.close()
        formed(*hosts)
    assert [host.pid("interconnect") for host in hosts] == pids


def test_a_folder_without_the_secret_finds_members_again(start: Start, tmp_path: Path) -> None:
    """Nobody joins by being found. A member that has another address is found, and the folder holds no more than that."""
    text = f'method = "folder"\nfolder = "{tmp_path}/hosts"'
    (tmp_path / "hosts").mkdir()
    h1, h2 = start(text, "h1", "h2", secret_file=None)
    wait_for(lambda: "host_found" in h1.log() and "host_found" in h2.log())
    assert set(members(h1)) == {"h1"}
    join(h1, h2)
    h2.stop()
    h2.config.write_text(h2.config.read_text().replace(":7001", ":7401"))
    h2.start()
    formed(h1, h2)
    assert {each["address"].rpartition(":")[2] for each in nodes(h1)["nodes"]} == {"7001", "7401"}
    for path in (tmp_path / "hosts").iterdir():
        entry = json.loads(path.read_text())
        assert entry.keys() == {"address", "name", "node_id"}
