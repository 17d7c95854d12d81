"""The network that the other tests of this folder rely on: it carries, cuts, heals, counts, and leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.broker import busy, wait_for
from tests.cluster.capture import Capture, Flow
from tests.cluster.network import CLI, CLIENTS, INTERCONNECT, NAMESPACES, PREFIX, Network

PORT = 9000


@pytest.fixture(autouse=True)
def healed(network: Network) -> None:
    network.heal()


def udp(network: Network, name: str, side: str = INTERCONNECT) -> socket.socket:
    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((network.address(name, side), PORT))
        made.settimeout(5)
        return made

    return network.inside(name, bound)


def arrives(one: socket.socket, other: socket.socket, text: bytes = b"hello") -> bool:
    one.sendto(text, other.getsockname())
    other.settimeout(0.3 * busy())
    try:
        return other.recv(100) == text
    except TimeoutError:
        return False


def test_cuts_between_hosts_go_both_ways_or_one(network: Network) -> None:
    with udp(network, "h1") as one, udp(network, "h2") as other:
        assert arrives(one, other)
        assert arrives(other, one)
        network.cut("h1", "h2", both=False)
        assert not arrives(one, other)
        assert arrives(other, one)
        network.cut("h1", "h2")
        assert not arrives(other, one)
        network.heal()
        assert arrives(one, other)
        assert arrives(other, one)


def test_the_two_sides_of_a_host_are_cut_apart(network: Network) -> None:
    with (
        udp(network, "h1") as inner,
        udp(network, "h2") as peer,
        udp(network, "h1", CLIENTS) as outer,
        udp(network, CLI, CLIENTS) as client,
    ):
        network.cut_clients("h1")
        assert (arrives(client, outer), arrives(outer, client), arrives(inner, peer)) == (False, False, True)
        network.heal()
        network.cut_interconnect("h1")
        assert (arrives(client, outer), arrives(outer, client)) == (True, True)
        assert (arrives(inner, peer), arrives(peer, inner)) == (False, False)


@pytest.mark.usefixtures("network")  # skips where there can be none
def test_one_pair_of_three_is_cut() -> None:
    with Network("h1", "h2", "h3") as three, ExitStack() as stack:
        one, two, third = (stack.enter_context(udp(three, name)) for name in three.hosts)
        three.cut("h1", "h2")
        assert not arrives(one, two)
        assert all(arrives(*pair) for pair in ((one, third), (third, one), (two, third), (third, two)))


def test_tcp_outlives_a_cut(network: Network) -> None:
    """Nobody is told of the cut: what was sent meanwhile arrives after it."""
    listening = network.inside("h2", lambda: socket.create_server((network.address("h2", INTERCONNECT), PORT)))
    with listening, network.inside("h1", lambda: socket.create_connection(listening.getsockname(), 5)) as one:
        other, _ = listening.accept()
        with other:
            network.cut("h1", "h2", both=False)
            one.sendall(b"late")
            other.sendall(b"soon")
            assert one.recv(100) == b"soon"
            other.settimeout(0.3)
            with pytest.raises(TimeoutError):
                other.recv(100)
            network.heal()
            other.settimeout(5)
            assert other.recv(100) == b"late"


def test_loss_is_a_share(network: Network) -> None:
    with udp(network, "h1") as one, udp(network, "h2") as other, network.capture("h2", INTERCONNECT) as capture:
        network.lose("h1", 50)
        for _ in range(200):
            one.sendto(b"x", other.getsockname())
        assert 50 < frames(capture) < 150


def test_a_slow_cable_delays_both_ways(network: Network) -> None:
    with udp(network, "h1") as one, udp(network, "h2") as other:
        network.slow("h1", 100)
        one.sendto(b"first", other.getsockname())
        assert other.recv(100) == b"first"  # behind the question for the neighbour
        began = time.monotonic()
        assert arrives(one, other)
        assert arrives(other, one)
        assert 0.2 <= time.monotonic() - began < 0.3 * busy()
        network.cut("h1", "h2", both=False)
        assert not arrives(one, other)
        network.heal()
        wait_for(lambda: arrives(one, other))  # the link was down for a moment
        began = time.monotonic()
        assert arrives(other, one)
        assert time.monotonic() - began < 0.1 * busy()


def test_a_slow_cable_reorders_and_duplicates(network: Network) -> None:
    with udp(network, "h1") as one, udp(network, "h2") as other:
        assert arrives(one, other)
        network.slow("h1", 5, jitter_ms=50, duplicate_percent=50)
        for number in range(100):
            one.sendto(b"%d" % number, other.getsockname())
        came = [int(other.recv(100)) for _ in range(120)]
        assert came != sorted(came)
        assert len(set(came)) > 80


def transfer_s(network: Network, size_bytes: int) -> float:
    """Seconds that a transfer by TCP from h1 to h2 takes."""
    data = random.randbytes(size_bytes)
    listening = network.inside("h2", lambda: socket.create_server((network.address("h2", INTERCONNECT), PORT)))
    with listening, network.inside("h1", lambda: socket.create_connection(listening.getsockname(), 5)) as one:
        other, _ = listening.accept()
        began = time.monotonic()
        with other, other.makefile("rb") as stream, ThreadPoolExecutor(1) as thread:
            other.settimeout(10)
            sending = thread.submit(one.sendall, data)
            assert stream.read(len(data)) == data
            sending.result(10)
        return time.monotonic() - began


def test_a_slow_cable_carries_large_segments(network: Network) -> None:
    """With the offloads of the interfaces, without which TCP would stand still."""
    network.slow("h1", 5)
    transfer_s(network, 1 << 20)


def test_a_narrow_cable(network: Network) -> None:
    network.narrow("h1", 800)
    assert 0.4 < transfer_s(network, 50_000) < 1
    network.heal()
    assert transfer_s(network, 50_000) < 0.1


def frames(capture: Capture) -> int:
    return capture.read().frames.total()


def test_captures_count_what_carries_data(network: Network) -> None:
    with (
        udp(network, "h1") as one,
        udp(network, "h2") as other,
        network.capture("h1", INTERCONNECT) as sent,
        network.capture("h2", INTERCONNECT) as came,
        network.capture("h1", CLIENTS) as elsewhere,
    ):
        assert arrives(one, other, b"12345")
        network.cut("h1", "h2", both=False)
        assert not arrives(one, other, b"123")
        assert (frames(sent), frames(came), frames(elsewhere)) == (2, 1, 0)
        flow = Flow(socket.IPPROTO_UDP, one.getsockname(), other.getsockname())
        assert (sent.read().bytes, came.read().bytes) == ({flow: 8}, {flow: 5})


def test_captures_leave_out_bare_tcp_segments(network: Network) -> None:
    listening = network.inside("h2", lambda: socket.create_server((network.address("h2", INTERCONNECT), PORT)))
    with (
        listening,
        network.capture("h2", INTERCONNECT) as capture,
        network.inside("h1", lambda: socket.create_connection(listening.getsockname(), 5)) as one,
    ):
        assert frames(capture) == 0
        one.sendall(b"data")
        wait_for(lambda: frames(capture) == 1)
        assert list(capture.read().bytes.values()) == [4]


def test_a_crashed_test_leaves_nothing_for_long(network: Network) -> None:
    code = (
        "from tests.cluster.network import Network\n"
        "network = Network('h1').__enter__()\n"
        "print(network.run('h1', ['sleep', '60']).pid, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        sleeper = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    orphans = [name for name in os.listdir(NAMESPACES) if name.startswith(f"{PREFIX}{process.pid}-")]
    assert len(orphans) == 3
    with Network():
        left = set(os.listdir(NAMESPACES))
        assert not set(orphans) & left
        assert network.namespace("h1") in left
        wait_for(lambda: not runs(sleeper))


def runs(pid: int) -> bool:
    """A killed process without a parent that takes note does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
