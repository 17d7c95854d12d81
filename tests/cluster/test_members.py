"""The table of members: who joins again, who is removed while it leaves, whom nobody removed, and a clock that is ahead."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mesh.hlc import AHEAD_MS_MAX, Stamp
from mesh.identity import create
from mesh.join import Joiner
from mesh.join import join as ask_to_join
from mesh.membership import Member, Membership
from mesh.token import Token
from node.admin.link import ask
from tests.broker import free_port, running, wait_for
from tests.cli.command import MQNODE
from tests.cluster.hosts import MESH, Host, admit, in_sync, join, running_hosts
from tests.cluster.loopback import Loopback
from tests.cluster.matrix import shim
from tests.cluster.matrix.shim import Shim
from tests.cluster.network import Network
from tests.mesh.host import Host as Mesh
from tests.mesh.host import green_wait
from tests.mqtt import Client

DURABLE: dict[str, Any] = {"clean": False, "session_expiry": 600}


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    with Network("h1", "h2", "h3") as network, running_hosts(network, interconnect=MESH, workers=1) as hosts:
        for other in hosts[1:]:
            admit(hosts[0], other)
        in_sync(*hosts)
        yield hosts


def nodes(host: Host) -> set[str]:
    return {each["name"] for each in ask_nodes(host)}


def ask_nodes(host: Host) -> list[dict[str, Any]]:
    return list(json.loads(host.mqnode("cluster", "nodes", "--json").stdout)["nodes"])


# -- joining again -------------------------------------------------------------------------------------------------------------


def test_a_member_that_joins_again_goes_on_with_its_links(hosts: list[Host]) -> None:
    first, second, _ = hosts
    with first.client() as here, second.client() as there:
        for client, topic in ((here, "there"), (there, "here")):
            client.connect()
            client.subscribe((topic, 0))
        admit(first, second)
        admit(second, first)
        for publisher, topic, subscriber in ((here, "here", there), (there, "there", here)):
            publisher.publish(topic, b"live")
            assert subscriber.take().payload == b"live"
    for host in hosts:
        assert "peer_down" not in host.log()
    in_sync(*hosts)


# -- removed while it leaves ------------------------------------------------------------------------------------------------------


def test_a_host_that_is_removed_while_it_leaves_keeps_what_is_not_copied(hosts: list[Host]) -> None:
    first, other, host = hosts
    with other.standing_still():
        wait_for(lambda: host.metric("mqnode_peers_evicted") == 1, 15, host.log)
        with host.client() as client:
            client.connect("only-here", **DURABLE)
            client.subscribe(("only-here", 1))
            client.publish_all("only-here", b"kept", 1)
        assert isinstance(host.network, Network)
        argv = [MQNODE, "leave", "--config", host.config, "--grace", "0", "-i", "0.1"]
        leaving = host.network.run(host.name, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert leaving.stdout is not None
        wait_for(lambda: b"copying" in leaving.stdout.readline(), 10, host.log)
        removed = first.mqnode("cluster", "remove", "h3", "--yes")
        assert removed.returncode == 0, removed.stderr
        _, told = leaving.communicate(timeout=20)
    assert leaving.returncode == 1
    assert b"It has not left: another host removed this one: what only its disk has is not on the others" in told
    assert told.endswith(b"comes along, and then: mqnode leave.\n"), told
    assert host.get("/v1/drain")[1]["phase"] == "removed"
    assert "h3 was removed from this cluster" in host.mqnode("cluster", "status").stdout
    assert "another host removed this one" in host.mqnode("leave").stderr
    stored = host.get("/v1/sessions?limit=100")[1]
    assert "only-here" in [each["client_id"] for each in stored], "its store is as it was"
    admit(first, host)
    in_sync(*hosts)
    with other.client() as client:
        assert client.connect("only-here", **DURABLE).session_present
        assert client.take().payload == b"kept"
    assert host.mqnode("leave", "--grace", "0").returncode == 0
    assert nodes(first) == nodes(other) == {"h1", "h2"}


def test_a_host_that_was_removed_and_has_another_address_since_serves_nobody() -> None:
    """Its own record is the later one, and still not what makes it a member."""
    with running_hosts(Loopback("h1", "h2"), interconnect=MESH, workers=1) as (first, second):
        join(first, second)
        second.kill_all()
        removed = first.mqnode("cluster", "remove", "h2", "--yes")
        assert removed.returncode == 0, removed.stderr
        second.config.write_text(second.config.read_text().replace(":7001", ":7401"))
        second.launch()
        wait_for(lambda: "not_a_member" in second.log(), 15, second.log)
        wait_for(lambda: "no member" in str(second.get("/ready")[1]), 5)
        assert "another host removed this one" in second.mqnode("leave").stderr
        admit(first, second)
        in_sync(first, second)
        assert {each["address"].rpartition(":")[2] for each in ask_nodes(first)} == {"7001", "7401"}


# -- refused, and not removed ---------------------------------------------------------------------------------------------------


def test_a_host_serves_on_if_its_only_peer_knows_nothing_of_it() -> None:
    """A host was let in, and died before it knew: it is a cluster of its own. It could be anybody at that address, too."""
    with running(f'[interconnect]\nbind = "127.0.0.1:{free_port()}"\n', workers=1) as host:
        made = ask(host.run_dir / "interconnect.sock", "token", {"ttl_s": 600})
        guest, address = create(), f"127.0.0.2:{free_port()}"
        ask_to_join(Joiner(guest, "n2", address, wall_ms=time.time_ns() // 1_000_000), Token.parse(made["token"]))
        alone = Member(guest.node_id, "n2", address, guest.public_key, "active", Stamp(1, guest.node_id))
        other = Mesh(guest, Membership(b"z" * 16, "mqnode", {guest.node_id: alone}), address)
        try:
            green_wait(lambda: other.transport.refused >= 3, 30)
        finally:
            other.transport.stop()
        assert host.get("/ready")[0] == 200
        with Client(host.port) as client:
            client.connect()
            assert client.publish_all("t", b"x", 1).reason in (0, 0x10)
        [n2] = [each for each in ask(host.run_dir / "interconnect.sock", "nodes", {})["nodes"] if not each["this_host"]]
        assert "it refuses the key of this host" in n2["trouble"]
        assert "not_a_member" not in host.log()


# -- a clock that is ahead ------------------------------------------------------------------------------------------------------


def test_a_change_from_a_clock_that_is_ahead_arrives_in_the_end(tmp_path: Path) -> None:
    """It is refused as long as its stamp is more than a minute ahead of the other host's clock, and sent again."""
    clock = Shim(shim.build(tmp_path), tmp_path / "told")
    with ExitStack() as stack:
        network = Loopback("h1", "h2")
        hosts = first, second = [
            Host(network, name, interconnect=MESH, environ=clock.environ if name == "h2" else None)
            for name in network.hosts
        ]
        for host in hosts:
            stack.callback(host.close)
            host.start()
        join(*hosts)
        clock.clock(AHEAD_MS_MAX / 1000 + 3)
        rotated = second.mqnode("keys", "rotate")
        assert rotated.returncode == 0, rotated.stderr
        assert first.log().count('"event":"members_refused"') in (1, 2), "not more than one for each of its two changes"
        in_sync(*hosts)
