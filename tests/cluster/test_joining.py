"""A host that joins a cluster serves new clients once it has what the others have, and says until then what it waits for."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.broker import running, wait_for
from tests.cluster.hosts import MESH, Host, in_sync, running_hosts
from tests.cluster.network import INTERCONNECT, Network
from tests.mqtt import CONNACK, Packet, connect_packet

DURABLE: dict[str, Any] = {"clean": False, "session_expiry": 600}
PORT = 7001  # of the interconnect, as in MESH
UNAVAILABLE, UNAVAILABLE_3 = 0x88, 3
SEEN_S = 15.0  # generous: a busy machine


@pytest.fixture(scope="module")
def hosts(network: Network) -> Iterator[list[Host]]:
    """Each alone. The first one has a session."""
    with running_hosts(network, interconnect=MESH) as hosts:
        for host in hosts:
            wait_for((host.run_dir / "interconnect.sock").exists, SEEN_S, host.log)
        with hosts[0].client() as client:
            client.connect("device", **DURABLE)
            client.subscribe(("device/#", 1))
            client.disconnect()
        yield hosts


def join_unreached(host: Host, member: Host) -> None:
    """It becomes a member, and then no host answers it."""
    made = json.loads(member.mqnode("cluster", "token", "create", "--json").stdout)
    assert isinstance(member.network, Network)
    member.network.cut_port(PORT)
    joined = host.mqnode("join", "--token", made["token"], "--timeout", "1")
    assert joined.returncode == 1, joined.stdout
    progress, end = joined.stderr.split("\nError: ")
    assert progress.startswith(f"member of mqnode, not in sync yet: {member.name} is not reached at 10.")
    assert "this host is a member, but not in sync after 1 s" in end


def reasons(host: Host) -> list[str]:
    status, answer = host.get("/ready")
    return [] if status == 200 else answer["reasons"] if status else ["it does not answer"]


def waits_for_a_copy(host: Host) -> None:
    [reason] = wait_for(lambda: [each for each in reasons(host) if "None of them answers" in each], SEEN_S, host.log)
    for text in ("has joined a cluster", "mqnode cluster nodes", "mqnode cluster remove NAME"):
        assert text in reason
    for version, code in ((5, UNAVAILABLE), (4, UNAVAILABLE_3)):
        answer = wait_for(lambda version=version: connack(host, version), SEEN_S, host.log)
        assert answer.reason == code
        assert version == 4 or "has no copy of its sessions yet" in answer.properties["reason_string"]


def connack(host: Host, version: int) -> Packet | None:
    """None: it does not listen yet."""
    try:
        with host.client(version) as client:
            client.send(connect_packet("device", version=version, clean=False))
            return client.expect(CONNACK)
    except ConnectionRefusedError:
        return None


def test_a_host_that_joins_lets_nobody_in_before_it_has_a_copy(network: Network, hosts: list[Host]) -> None:
    """But who is connected goes on, and a keeper that starts anew has not forgotten it."""
    first, second = hosts
    with second.client() as stays, first.client() as publisher:
        stays.connect("stays")
        join_unreached(second, first)
        waits_for_a_copy(second)
        second.replace("keeper")
        waits_for_a_copy(second)
        assert reasons(first) == []
        assert reasons(second)[0] in second.mqnode("status").stdout
        publisher.connect()
        publisher.publish_all("device/1", b"kept", 1)
        network.heal()
        second.wait_ready()
        with second.client() as client:
            assert client.connect("device", **DURABLE).session_present
            assert client.take().payload == b"kept"
        publisher.publish_all("device/2", b"later", 1)
        assert stays.publish_all("any", b"x", 1).reason in (0, 0x10)
    in_sync(first, second)
    assert '"event":"copy_complete"' in second.log()


def test_an_interconnect_that_cannot_listen_is_named(network: Network, hosts: list[Host]) -> None:
    """With its address and the command that shows who has the port; when it is free the host serves again by itself."""
    first, second = hosts
    address = network.address("h2", INTERCONNECT)
    assert second.stop() == 0
    with network.inside("h2", lambda: socket.create_server((address, PORT))):
        second.launch()
        [reason] = wait_for(lambda: [each for each in reasons(second) if "cannot listen" in each], SEEN_S)
        assert f"cannot listen at {address}:{PORT} for other hosts: Address already in use" in reason
        assert f"ss -ltnp 'sport = :{PORT}'" in reason
        assert any("acknowledged meanwhile" in each for each in reasons(second)), reasons(second)
        assert reason in second.mqnode("status").stdout
        assert reason in second.mqnode("check", "ready").stdout
    second.wait_ready()
    in_sync(first, second)
    [said] = [json.loads(line) for line in second.errors() if "interconnect_stopped" in line]
    assert f"{address}:{PORT}" in said["cause"]


def test_an_interconnect_at_a_foreign_address_is_named() -> None:
    """A host that is alone serves all the same."""
    with running('[interconnect]\nbind = "192.0.2.1:7001"\n', workers=1) as broker:
        [warning] = wait_for(lambda: broker.get("/v1/status")[1]["warnings"], SEEN_S)
        for text in ("the interconnect is not ready", "192.0.2.1:7001", "no such address here: ip address"):
            assert text in warning


def test_a_port_for_joining_hosts_that_is_taken_disturbs_no_member(network: Network, hosts: list[Host]) -> None:
    first, second = hosts
    pid, address = second.pid("interconnect"), network.address("h2", INTERCONNECT)
    for port, command in ((PORT + 1, ("token", "create")), (PORT + 3, ("pending",))):
        with network.inside("h2", lambda port=port: socket.create_server((address, port))):
            asked = second.mqnode("cluster", *command)
            assert asked.returncode == 1
            assert f"cannot listen at {address}:{port}" in asked.stderr
            wait_for(lambda port=port: port == PORT + 1 or "door_closed" in second.log(), SEEN_S)
        assert second.mqnode("cluster", *command).returncode == 0
    assert second.pid("interconnect") == pid
    in_sync(first, second)


def test_one_that_left_waits_for_a_copy_too_and_can_be_told_that_the_others_are_gone(
    network: Network, hosts: list[Host]
) -> None:
    """Whatever it had before: that may be over. It does not wait for those who are no members."""
    first, second = hosts
    left = second.mqnode("leave", "--grace", "0", "-i", "0.1")
    assert left.returncode == 0, left.stderr
    assert "This host is no member of its cluster any more" in second.mqnode("cluster", "digest").stdout
    join_unreached(second, first)
    waits_for_a_copy(second)
    asked = second.mqnode("cluster", "remove", first.name)
    assert asked.returncode == 2
    assert "This host has never been in sync with h1: none of what only h1 has is here" in asked.stderr
    removed = second.mqnode("cluster", "remove", first.name, "--yes")
    assert removed.returncode == 0, removed.stderr
    second.wait_ready()
    with second.client() as client:
        client.connect("device", **DURABLE)
    network.heal()
