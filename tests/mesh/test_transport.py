"""Real hosts on loopback addresses, each a process of its own but the one under test."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import gevent
import pytest

from mesh import channel, transport
from mesh.hlc import Stamp
from mesh.identity import create
from mesh.membership import Membership
from mesh.zap import TransportError
from tests.broker import busy, free_port
from tests.mesh.cluster import QUICK_S, Cluster, echoed, pair_of_tables
from tests.mesh.host import ECHO, SILENT, Host, green_wait


def test_three_hosts_are_connected_each_with_each(cluster: Cluster) -> None:
    ids = {each.node_id.hex() for each in cluster.membership.active()}
    for child in cluster.children:
        green_wait(lambda: {event[1] for event in child.events() if event[0] == "up"} == ids - {child.id.hex()})  # noqa: B023
        counters = cluster.host.transport.counters()[child.id]
        assert (counters.state, counters.address, counters.version) == ("up", child.address, 1)


def test_frames_arrive_in_order_and_come_from_the_node_of_the_key(cluster: Cluster) -> None:
    bodies = [b"%d" % number + b"." * (number * 37 % 5000) for number in range(2_000)]
    bodies[1_000] = bytes(1 << 20)
    for child in cluster.children:
        for body in bodies:
            assert cluster.host.transport.send(child.id, ECHO, body)
    green_wait(lambda: len(cluster.host.frames) == 2 * len(bodies), 20)
    for child in cluster.children:
        assert [body for sender, kind, body in cluster.host.frames if sender == child.id and kind == SILENT] == bodies
    assert not cluster.host.events


def test_counters_say_what_went_where(cluster: Cluster) -> None:
    child = cluster.children[0]
    counters = cluster.host.transport.counters()[child.id]
    frames_out, bytes_out, frames_in = counters.frames_out, counters.bytes_out, counters.frames_in
    echoed(cluster, child, b"x" * 10_000)
    counters = cluster.host.transport.counters()[child.id]
    assert (counters.frames_out, counters.frames_in) == (frames_out + 1, frames_in + 1)
    assert counters.bytes_out >= bytes_out + 10_000
    assert counters.queue_bytes == 0
    green_wait(lambda: (cluster.host.transport.counters()[child.id].rtt_ms or 0) > 0)


def test_kill_9_and_return(cluster: Cluster) -> None:
    child, other = cluster.children
    child.kill()
    killed = time.monotonic()
    green_wait(lambda: ["suspect", child.id.hex()] in cluster.host.events, QUICK_S)
    assert 0.6 <= time.monotonic() - killed <= 1.6 * busy()
    assert not [event for event in cluster.host.events if event[1] == other.id.hex()]
    green_wait(lambda: ["down", child.id.hex(), channel.EVICTED] in cluster.host.events, 5)
    assert 2.6 <= time.monotonic() - killed <= 4 * busy()
    assert cluster.host.state(child.id) == "evicted"
    assert not cluster.host.transport.send(child.id, ECHO, b"x")
    child.start(cluster.membership)
    green_wait(lambda: cluster.host.events[-1] == ["up", child.id.hex()])
    echoed(cluster, child, b"back")


def test_a_peer_that_restarts_within_a_second_is_down_and_up_never_only_up(cluster: Cluster) -> None:
    child = cluster.children[0]
    child.kill()
    child.start(cluster.membership)
    green_wait(lambda: ["up", child.id.hex()] in cluster.host.events)
    names = [event[0] for event in cluster.host.events]
    assert [name for name in names if name != "suspect"] in (["down", "up"], ["down", "down", "up"])
    echoed(cluster, child, b"back")


def test_a_frozen_peer_is_suspected_pushes_back_and_goes_on(cluster: Cluster) -> None:
    child = cluster.children[0]
    assert child.process is not None
    child.process.send_signal(signal.SIGSTOP)
    accepted = 0
    try:
        green_wait(lambda: cluster.host.state(child.id) == "suspect", QUICK_S)
        while cluster.host.transport.send(child.id, ECHO, bytes(64 << 10)):
            accepted += 1
            assert accepted < 1000, "no bound"
        assert cluster.host.transport.counters()[child.id].queue_bytes <= channel.QUEUE_BYTES_MAX
        assert cluster.host.transport.counters()[child.id].refused_sends > 0
    finally:
        child.process.send_signal(signal.SIGCONT)
    green_wait(lambda: cluster.host.state(child.id) == "up", QUICK_S)
    assert cluster.host.events == [["suspect", child.id.hex()], ["up", child.id.hex()]]
    green_wait(lambda: len(cluster.host.frames) == accepted, 20)


def test_a_pause_of_this_process_evicts_nobody(cluster: Cluster) -> None:
    """The others doubt us meanwhile, but what they sent is read before they are judged."""
    time.sleep(1.4)  # not gevent's: nothing runs
    green_wait(cluster.all_up, QUICK_S)
    gevent.sleep(0.5)
    assert not [event for event in cluster.host.events if event[0] == "down"]


def test_who_stood_still_hears_that_before_anything_of_those_who_went_on(cluster: Cluster) -> None:
    time.sleep(3.6)
    green_wait(lambda: ["up", cluster.children[0].id.hex()] in cluster.host.events, 10)
    assert cluster.host.events[0] == ["stood_still"]
    assert channel.EVICTED not in [event[-1] for event in cluster.host.events], "for a silence that it slept through"


def test_a_member_that_is_removed_is_heard_no_more_and_may_come_back(cluster: Cluster) -> None:
    child, other = cluster.children
    cluster.host.transport.update_members(cluster.membership.without(child.id, Stamp(2, child.id)))
    assert cluster.host.events == [["down", child.id.hex(), transport.LEFT]]
    assert child.id not in cluster.host.transport.counters()
    assert not cluster.host.transport.send(child.id, ECHO, b"x")
    strangers = cluster.host.transport.strangers
    green_wait(lambda: cluster.host.transport.strangers > strangers, QUICK_S)  # it still tries
    echoed(cluster, other, b"undisturbed")
    cluster.host.transport.update_members(cluster.membership)
    green_wait(cluster.all_up)
    echoed(cluster, child, b"again")


def test_only_the_interconnects_address_listens(cluster: Cluster) -> None:
    port = int(cluster.address.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.9", port), 1)


def test_connections_leave_from_the_interconnects_address(cluster: Cluster) -> None:
    for child in cluster.children:
        assert child.process is not None
        found = subprocess.run(
            ["ss", "-Htnp", "state", "established"], capture_output=True, text=True, check=True
        ).stdout
        mine = [line.split() for line in found.splitlines() if f"pid={child.process.pid}," in line]
        assert mine
        address = child.address.rpartition(":")[0]
        assert all(fields[2].startswith(address + ":") for fields in mine), mine


def test_a_taken_port_is_refused_with_cause_and_next_step(cluster: Cluster) -> None:
    with pytest.raises(TransportError, match=r"interconnect\.bind.*ss -ltnp"):
        Host(create(), cluster.membership, cluster.address)


# -- re-addressed --------------------------------------------------------------------------------------------------


def test_a_member_with_a_new_address_is_reached_there(cluster: Cluster) -> None:
    child = cluster.children[1]
    child.kill()
    child.address = f"127.0.0.4:{free_port()}"
    cluster.membership = cluster.membership.renamed(child.id, Stamp(9, child.id), address=child.address)
    child.start(cluster.membership)
    cluster.host.transport.update_members(cluster.membership)
    green_wait(cluster.all_up)
    echoed(cluster, child, b"moved")
    assert cluster.host.transport.counters()[child.id].address == child.address


# -- this process ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", ["localhost", "[::1]"])
def test_names_and_ipv6(hosts: str) -> None:
    addresses = (f"{hosts}:{free_port()}", f"{hosts}:{free_port()}")
    identities, table = pair_of_tables(addresses)
    binds = [address.replace("localhost", "127.0.0.1") for address in addresses]
    running = [Host(identity, table, bind) for identity, bind in zip(identities, binds, strict=True)]
    try:
        green_wait(lambda: all(host.events for host in running), QUICK_S)
        assert [host.events[0][0] for host in running] == ["up", "up"]
    finally:
        for host in running:
            host.transport.stop()


def test_a_host_that_has_removed_this_one_is_told() -> None:
    identities, table = pair_of_tables((f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"))
    removed = table.without(identities[0].node_id, Stamp(9, identities[1].node_id))
    hosts = [
        Host(identities[0], table, table.find("n1").address),
        Host(identities[1], removed, table.find("n2").address),
    ]
    told = removed.only(identities[0].node_id).to_json()
    try:
        green_wait(lambda: ["removed", identities[1].node_id.hex(), told.decode()] in hosts[0].events, QUICK_S)
        assert not [event for host in hosts for event in host.events if event[0] == "up"]
        assert hosts[1].transport.counters() == {}
    finally:
        for host in hosts:
            host.transport.stop()


def test_a_handshake_that_is_refused_removes_nobody() -> None:
    """For all that can be known the peer's address is somebody else's."""
    identities, table = pair_of_tables((f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"))
    alone = Membership(table.cluster_id, table.name, {identities[1].node_id: table.find("n2")})
    hosts = [
        Host(identities[0], table, table.find("n1").address),
        Host(identities[1], alone, table.find("n2").address),
    ]
    try:
        green_wait(lambda: hosts[0].transport.counters()[identities[1].node_id].trouble == channel.NO_MEMBER, QUICK_S)
        assert not hosts[0].events
    finally:
        for host in hosts:
            host.transport.stop()


def test_a_name_without_an_address_is_told() -> None:
    identities, table = pair_of_tables((f"127.0.0.1:{free_port()}", "no..where:7001"))
    host = Host(identities[0], table, table.find("n1").address)
    try:
        green_wait(lambda: "no..where" in host.transport.counters()[identities[1].node_id].trouble, QUICK_S)
    finally:
        host.transport.stop()


def test_a_stopped_transport_leaves_nothing_behind() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = 0
    for number in range(6):
        identities, table = pair_of_tables((f"127.0.0.1:{free_port()}", f"127.0.0.2:{free_port()}"))
        running = [Host(identity, table, table.member(identity.node_id).address) for identity in identities]
        green_wait(lambda: all(host.events for host in running), QUICK_S)  # noqa: B023
        for host in running:
            host.transport.stop()
        gevent.sleep(0.05)
        if number == 1:
            before = descriptors()
    assert descriptors() <= before


WRONG_HANDLER = """
import gevent
from tests.broker import free_port
from tests.mesh.cluster import pair_of_tables
from tests.mesh.host import Host
class Wrong(Host):
    def up(self, node_id):
        raise KeyError("a bug")
addresses = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
identities, table = pair_of_tables(addresses)
hosts = [Host(identities[0], table, addresses[0]), Wrong(identities[1], table, addresses[1])]
gevent.sleep(20)
"""


def test_an_error_of_the_handler_ends_the_process() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WRONG_HANDLER], capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == 1
    assert "KeyError: 'a bug'" in ended.stderr
