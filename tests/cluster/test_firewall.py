"""deploy/firewall.nft on every host: it lets hosts and clients work, nobody else in, and hosts send nothing that it drops."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest

from mesh import secret
from tests.broker import wait_for
from tests.cli.command import MQNODE
from tests.cluster.hosts import HEALTH_PORT, MESH, PROXIED_PORT, Host, in_sync
from tests.cluster.network import CLI, CLIENTS, INTERCONNECT, ROOT, Network

PORT = 7001  # of the interconnect, as in MESH
FINDS = '[discovery]\nmethod = "beacon"\ninterval_s = 1\nsecret_file = "{secret}"\n'
REFUSAL_S = 0.3
SEEN_S = 15.0  # generous: a busy machine
DOCUMENTED = re.compile(r"^\| (TCP|UDP) ([\d, ]+) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """h1 and h2 find each other, h3 knows of nobody; each behind the firewall before it starts."""
    path = tmp_path_factory.mktemp("firewall") / "secret"
    secret.create(path)
    finds = MESH + FINDS.format(secret=path)
    with Network("h1", "h2", "h3") as network, ExitStack() as stack:
        hosts = [Host(network, name, interconnect=MESH if name == "h3" else finds) for name in network.hosts]
        for host in hosts:
            stack.callback(host.close)
            nft(network, host, "-f", "-", rules=rules(network, host))
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(Host.start, hosts))
        yield hosts


def rules(network: Network, host: Host) -> str:
    """The file, with the values that an operator sets. The ports of the interconnect are as shipped."""
    text = (ROOT / "deploy/firewall.nft").read_text(encoding="utf-8")
    for name, value in {
        "clients": f'"{CLIENTS}"',
        "client_ports": f"{{ {host.port}, {PROXIED_PORT} }}",
        "operators": f"{{ {network.address(CLI)} }}",
        "interconnect": f'"{INTERCONNECT}"',
        "hosts": "{ 10.78.0.0/24 }",
    }.items():
        text, found = re.subn(rf"(?m)^(define {name} =) [^#\n]+", rf"\1 {value} ", text)
        assert found == 1, name
    return text


def nft(network: Network, host: Host, *arguments: str, rules: str = "") -> str:
    process = network.run(
        host.name, ["nft", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, errors = process.communicate(rules.encode(), 10)
    assert process.returncode == 0, errors.decode()
    return said.decode()


def dropped(host: Host) -> int:
    """Packets from the interconnect."""
    listed = json.loads(nft(network_of(host), host, "-j", "list", "counters", "table", "inet", "mqnode"))
    [packets] = [each["counter"]["packets"] for each in listed["nftables"] if "counter" in each]
    return int(packets)


def network_of(host: Host) -> Network:
    assert isinstance(host.network, Network)
    return host.network


def approve(member: Host, newcomer: Host) -> None:
    """By fingerprint: the one way in that knocks."""
    argv = [MQNODE, "join", "--peer", inner(member), "--fingerprint", asked(member, "pending")["fingerprint"]]
    joining = newcomer.network.run(
        newcomer.name, [*argv, "--config", newcomer.config], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        [pending] = wait_for(lambda: asked(member, "pending")["pending"], SEEN_S)
        asked(member, "approve", pending["fingerprint"])
        _, errors = joining.communicate(timeout=SEEN_S)
        assert joining.returncode == 0, errors.decode()
    finally:
        joining.kill()


def asked(host: Host, *arguments: str) -> Any:
    done = host.mqnode("cluster", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def inner(host: Host) -> str:
    return host.network.address(host.name, INTERCONNECT)


def listening(host: Host) -> set[tuple[str, str, int]]:
    """Protocol, address and port, but for what this host alone reaches."""
    process = network_of(host).run(host.name, ["ss", "-Hlntu"], stdout=subprocess.PIPE)
    places = [line.split() for line in process.communicate(timeout=10)[0].decode().splitlines()]
    ends = [(each[0], *each[4].rsplit(":", 1)) for each in places]
    return {(protocol, at.partition("%")[0], int(port)) for protocol, at, port in ends if at != "127.0.0.1"}


def crosses(publisher: Host, subscriber: Host) -> None:
    with subscriber.client() as takes, publisher.client() as gives:
        takes.connect()
        takes.subscribe(("crosses/#", 1))
        gives.connect()
        gives.publish_all(f"crosses/{publisher.name}", b"over the interconnect", 1)
        assert takes.take().topic == f"crosses/{publisher.name}"


def dial(network: Network, origin: str, side: str, to: tuple[str, int]) -> str:
    """What becomes of a connection from that side of a host, or of the clients."""

    def dialled() -> str:
        with closing(socket.socket()) as dialling:
            dialling.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, side.encode())
            dialling.settimeout(REFUSAL_S)
            try:
                dialling.connect(to)
            except TimeoutError:
                return "dropped"
            except ConnectionRefusedError:
                return "refused"
            return "taken"

    return network.inside(origin, dialled)


def test_hosts_find_join_and_serve_behind_it_and_nothing_of_theirs_is_dropped(hosts: list[Host]) -> None:
    first, second, third = hosts
    in_sync(first, second)
    approve(first, third)
    in_sync(*hosts)
    for peer in ("h2", "h3"):
        wait_for(lambda peer=peer: first.metric(f'mqnode_link_life_port{{peer="{peer}"}}') == 1)
    crosses(first, third)
    second.kill_all()
    wait_for(lambda: up(first) == up(third) == {"h1", "h3"}, SEEN_S, lambda: f"{up(first)} {up(third)}")
    crosses(third, first)
    assert [dropped(host) for host in hosts] == [0, 0, 0]


def up(host: Host) -> set[str]:
    return {each["name"] for each in asked(host, "nodes")["nodes"] if each["state"] == "up"}


def test_the_ports_are_those_of_the_documentation(hosts: list[Host]) -> None:
    """What a host listens on that others are to reach, while every way in is open."""
    first = hosts[0]
    asked(first, "pending")
    table = DOCUMENTED.findall((ROOT / "docs/operating.md").read_text(encoding="utf-8"))
    ports = {(protocol.lower(), int(port)) for protocol, row in table for port in row.split(",")}
    interconnect = {(name, inner(first) if name == "tcp" else "239.192.77.81", port) for name, port in ports}
    clients = {("tcp", first.address, port) for port in (first.port, PROXIED_PORT, HEALTH_PORT)}
    wait_for(lambda: listening(first) == interconnect | clients, what=lambda: f"{sorted(listening(first))}")


def test_nobody_else_comes_in(hosts: list[Host]) -> None:
    """The last test: then the firewall goes, and it shows that nothing else kept them out."""
    first, network = hosts[0], network_of(hosts[0])
    from_clients = [(CLI, CLIENTS, (inner(first), PORT)), ("h3", CLIENTS, (first.address, HEALTH_PORT))]
    from_hosts = [("h3", INTERCONNECT, (inner(first), PORT - 1)), ("h3", INTERCONNECT, (first.address, first.port))]
    before = dropped(first)
    assert [dial(network, *each) for each in (*from_clients, *from_hosts)] == ["dropped"] * 4
    assert dropped(first) >= before + 2
    assert dial(network, CLI, CLIENTS, (first.address, HEALTH_PORT)) == "taken"
    nft(network, first, "delete", "table", "inet", "mqnode")
    assert [dial(network, *each) for each in (*from_clients, *from_hosts)] == ["taken", "taken", "refused", "taken"]
