"""Real hosts on loopback addresses, each a process of its own but the one under test."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
import zmq

from mesh import channel, transport
from mesh.hlc import Stamp
from mesh.identity import FILE_NAME, Identity, create, load_or_create
from mesh.membership import Member, Membership
from mesh.zap import TransportError
from tests.broker import free_port
from tests.mesh.host import ECHO, SILENT, Host, green_wait

QUICK_S = 3.0


class Child:
    """The host of a process."""

    def __init__(self, folder: Path, name: str, address: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.name, self.address = name, address
        self.identity = load_or_create(self.folder / FILE_NAME)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.folder / "log"

    @property
    def id(self) -> bytes:
        return self.identity.node_id

    def start(self, membership: Membership) -> None:
        table = self.folder / "membership.json"
        table.write_bytes(membership.to_json())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.mesh.host", self.folder / FILE_NAME, table, self.address], stdout=log
            )

    def events(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Cluster:
    """n1 is in this process, n2 and n3 are not."""

    def __init__(self, folder: Path) -> None:
        self.identity = load_or_create(folder / FILE_NAME)
        self.children = [Child(folder, f"n{number}", f"127.0.0.{number}:{free_port()}") for number in (2, 3)]
        self.address = f"127.0.0.1:{free_port()}"
        self.membership = Membership(b"c" * 16, "home")
        self.add("n1", self.identity, self.address)
        for child in self.children:
            self.add(child.name, child.identity, child.address)
        for child in self.children:
            child.start(self.membership)
        self.host = Host(self.identity, self.membership, self.address)

    def add(self, name: str, identity: Identity, address: str) -> None:
        member = Member(identity.node_id, name, address, identity.public_key, "active", Stamp(1, identity.node_id))
        self.membership = self.membership.with_member(member)

    def all_up(self) -> bool:
        return all(self.host.state(child.id) == "up" for child in self.children)

    def stop(self) -> None:
        self.host.transport.stop()
        for child in self.children:
            child.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("mesh"))
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def cluster(running: Cluster) -> Cluster:
    green_wait(running.all_up, what=f"links are not up: {running.host.transport.counters()}")
    running.host.events.clear()
    running.host.frames.clear()
    return running


def echoed(cluster: Cluster, child: Child, body: bytes) -> float:
    """How long a body takes there and back."""
    assert cluster.host.transport.send(child.id, ECHO, body)
    return green_wait(lambda: (child.id, SILENT, body) in cluster.host.frames, QUICK_S)


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
    assert 0.6 <= time.monotonic() - killed <= 1.6
    assert not [event for event in cluster.host.events if event[1] == other.id.hex()]
    green_wait(lambda: ["down", child.id.hex(), channel.EVICTED] in cluster.host.events, 5)
    assert 2.6 <= time.monotonic() - killed <= 4
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
    time.sleep(
        1.4
    )  # not gevent's: nothing runs. The others doubt us, but what they sent is read before they are judged
    green_wait(cluster.all_up, QUICK_S)
    gevent.sleep(0.5)
    assert not [event for event in cluster.host.events if event[0] == "down"]


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


# -- strangers ---------------------------------------------------------------------------------------------------------------


def test_a_stranger_with_a_perfect_handshake_is_refused(cluster: Cluster) -> None:
    refused, thief = cluster.host.transport.refused, create()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.CURVE_SERVERKEY, cluster.identity.public_key.encode())
        dealer.setsockopt(zmq.CURVE_PUBLICKEY, thief.public_key.encode())
        dealer.setsockopt(zmq.CURVE_SECRETKEY, thief.secret_key.encode())
        dealer.setsockopt(zmq.ROUTING_ID, cluster.children[0].id)  # says it is somebody else
        dealer.connect(f"tcp://{cluster.address}")
        green_wait(lambda: cluster.host.transport.refused > refused, QUICK_S)
        assert not dealer.poll(0, zmq.POLLOUT)
    assert not cluster.host.events


@pytest.mark.parametrize("mechanism", ["none", "plain"])
def test_a_stranger_without_curve_is_refused(cluster: Cluster, mechanism: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        monitor = dealer.get_monitor_socket()
        dealer.setsockopt(zmq.LINGER, 0)
        if mechanism == "plain":
            dealer.setsockopt(zmq.PLAIN_USERNAME, b"n2")
            dealer.setsockopt(zmq.PLAIN_PASSWORD, b"n2")
        dealer.connect(f"tcp://{cluster.address}")
        green_wait(lambda: monitor.poll(0), QUICK_S)
        gevent.sleep(0.2)
        seen = {monitor.recv_multipart()[0][:2] for _ in range(50) if monitor.poll(0)}
        dealer.disable_monitor()
        monitor.close()
        assert zmq.EVENT_HANDSHAKE_SUCCEEDED.to_bytes(2, "little") not in seen
    assert not cluster.host.events


def test_garbage_and_half_handshakes_delay_nobody(cluster: Cluster) -> None:
    """CVE-2020-15166: peers that speak no ZMTP starved a CURVE server."""
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0")
    host, _, port = cluster.address.rpartition(":")
    strangers = []
    for number in range(150):
        stranger = socket.create_connection((host, int(port)))
        strangers.append(stranger)
        stranger.sendall(
            [b"", b"GET / HTTP/1.1\r\n\r\n" * 50, greeting, greeting.ljust(64, b"\0"), b"\xff" * 9][number % 5]
        )
    slowest = max(echoed(cluster, child, b"%d" % number) for number in range(40) for child in cluster.children)
    child = cluster.children[0]
    child.kill()  # and a real peer gets in past them
    child.start(cluster.membership)
    green_wait(lambda: ["up", child.id.hex()] in cluster.host.events)
    assert slowest < 0.5
    for stranger in strangers:
        stranger.settimeout(8)
        try:
            while stranger.recv(1 << 16):
                pass  # closed in the end, after 5 s at most
        except ConnectionResetError:
            pass
        stranger.close()


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


# -- re-addressed, and one-way --------------------------------------------------------------------------------------------------


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


def test_a_host_that_only_one_side_reaches_is_not_up() -> None:
    """The other side's table has a wrong address for this host: a one-way link."""
    addresses = (f"127.0.0.5:{free_port()}", f"127.0.0.6:{free_port()}")
    (first, second), table = pair_of_tables(addresses)
    wrong = table.renamed(first.node_id, Stamp(2, first.node_id), address=f"127.0.0.7:{free_port()}")
    hosts = [
        Host(first, table, addresses[0]),
        Host(second, wrong, addresses[1]),
    ]
    try:
        green_wait(lambda: all(len(host.events) > 0 for host in hosts), 5)
        assert [event[0] for host in hosts for event in host.events] == ["down", "down"]
        assert hosts[1].transport.counters()[first.node_id].bytes_in > 0, "nothing came one way, either"
        hosts[1].transport.update_members(table)
        green_wait(lambda: hosts[0].state(second.node_id) == hosts[1].state(first.node_id) == "up", QUICK_S)
    finally:
        for host in hosts:
            host.transport.stop()


# -- this process ---------------------------------------------------------------------------------------------------------------


def pair_of_tables(names: tuple[str, str]) -> tuple[list[Identity], Membership]:
    """Two hosts that know each other by these addresses."""
    identities, table = [create(), create()], Membership(b"c" * 16, "home")
    for number, (identity, address) in enumerate(zip(identities, names, strict=True), 1):
        stamp = Stamp(1, identity.node_id)
        table = table.with_member(Member(identity.node_id, f"n{number}", address, identity.public_key, "active", stamp))
    return identities, table


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


def test_an_unknown_name_is_told() -> None:
    identities, table = pair_of_tables((f"127.0.0.1:{free_port()}", "nowhere.invalid:7001"))
    host = Host(identities[0], table, table.find("n1").address)
    try:
        green_wait(lambda: "nowhere.invalid" in host.transport.counters()[identities[1].node_id].trouble, QUICK_S)
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
import sys
import gevent
from mesh.hlc import Stamp
from mesh.identity import create
from mesh.membership import Member, Membership
from tests.mesh.host import Host
class Wrong(Host):
    def down(self, node_id, reason):
        raise KeyError("a bug")
identity, other = create(), create()
table = Membership(b"c" * 16, "home").with_member(
    Member(other.node_id, "n2", "127.0.0.1:9", other.public_key, "active", Stamp(1, other.node_id)))
Wrong(identity, table, "127.0.0.1:0")
gevent.sleep(20)
"""


def test_an_error_of_the_handler_ends_the_process() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WRONG_HANDLER], capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == 1
    assert "KeyError: 'a bug'" in ended.stderr
