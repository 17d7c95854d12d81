"""One name or one address for two hosts: nginx, or without a single point of failure DNS with an address of each, two balancers."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.broker import wait_for
from tests.cluster.balancer import SHIPPED, configuration
from tests.cluster.boards import Zone
from tests.cluster.hosts import MESH, TIMEOUT_S, Host, in_sync, join
from tests.cluster.network import CLI, CLIENTS, Network
from tests.faults.ledger import Ledger
from tests.faults.test_kill import SEED
from tests.mqtt import Client

SHARED, PORT, PROXIED = "10.77.0.100", 1884, 1885
LISTENERS = f"""
[[listeners]]
type = "tcp"
bind = "0.0.0.0:{PORT}"
[[listeners]]
type = "tcp"
bind = "0.0.0.0:{PROXIED}"
proxy_protocol = "required"
proxy_networks = ["10.77.0.0/24"]
"""
NAME = "mqtt.example.org"
MOVED_S = 10.0  # keepalived: two failed checks, or three advertisements that do not come


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network("h1", "h2", "lb1", "lb2") as network:
        yield network


@pytest.fixture(scope="module")
def hosts(network: Network) -> Iterator[list[Host]]:
    with ExitStack() as stack:
        hosts = [Host(network, name, interconnect=MESH, more=LISTENERS) for name in ("h1", "h2")]
        for host in hosts:
            stack.callback(host.close)
            host.start()
        join(*hosts)
        yield hosts


# -- DNS -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def stock_subscribers(network: Network, count: int) -> Iterator[list[Path]]:
    """mosquitto_sub, which asks the resolver of the C library for NAME; the files that have what each of them got."""
    folder = Path(tempfile.mkdtemp(prefix="mqnode-", dir="/tmp"))
    (folder / "resolv.conf").write_text(f"nameserver {network.address(CLI)}\noptions timeout:5\n")
    outputs = [folder / f"{number}" for number in range(count)]
    processes = []
    for number, output in enumerate(outputs):
        client = f"exec mosquitto_sub -h {NAME} -p {PORT} -i dns{number} -c -q 1 -t dns -k 5"
        with output.open("wb") as file:
            processes.append(
                network.run(
                    CLI,
                    ["unshare", "-m", "sh", "-c", f"mount --bind {folder}/resolv.conf /etc/resolv.conf && {client}"],
                    stdout=file,
                )
            )
    try:
        yield outputs
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
        shutil.rmtree(folder)


def connected(host: Host) -> int:
    return len([each for each in host.get("/v1/clients")[1] or () if each["client_id"].startswith("dns")])


def subscribed(host: Host, client_id: str) -> bool:
    return bool((host.get(f"/v1/sessions/{client_id}")[1] or {}).get("subscriptions"))


def test_a_name_with_two_addresses_spreads_clients_and_survives_a_host(network: Network, hosts: list[Host]) -> None:
    """Row 104: the resolver's order decides, and who finds nobody at one address goes to the other."""
    first, second = hosts
    records = {(NAME, "A"): [host.address for host in hosts]}
    with (
        network.inside(CLI, lambda: Zone(network.address(CLI), records, 53)),
        stock_subscribers(network, 8) as outputs,
    ):
        wait_for(lambda: sum(map(connected, hosts)) == 8, 20, lambda: str([host.get("/v1/clients") for host in hosts]))
        assert min(map(connected, hosts)) > 0, [connected(host) for host in hosts]
        wait_for(lambda: all(subscribed(first, f"dns{number}") for number in range(8)), 20)
        first.kill_all()
        try:
            with second.client() as publisher:
                publisher.connect()
                publisher.publish_all("dns", b"all")
            wait_for(lambda: connected(second) == 8, 20, second.log)
            wait_for(lambda: [each.read_text() for each in outputs] == ["all\n"] * 8, 20)
        finally:
            first.start()
        in_sync(*hosts)


# -- nginx -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def nginx(network: Network, hosts: list[Host], folder: Path) -> Iterator[Callable[[int], Client]]:
    """With deploy/nginx.conf; connections through it, by version."""
    address, config = network.address(CLI), folder / "nginx.conf"
    text = (SHIPPED / "nginx.conf").read_text()
    for number, host in enumerate(hosts, 1):
        text, replaced = re.subn(rf"server 10.8.0.{number}:1883 ", f"server {host.address}:{PROXIED} ", text)
        assert replaced == 1
    assert text.count("listen 1883") == 1
    config.write_text(text.replace("listen 1883", f"listen {address}:1883"))
    log = folder / "log"
    with log.open("wb") as file:
        argv = ["nginx", "-c", config, "-e", "stderr", "-g", f"daemon off; pid {folder}/pid;"]
        process = network.run(CLI, argv, stdout=file, stderr=file)

    def client(version: int = 5) -> Client:
        return network.inside(CLI, lambda: Client(1883, version, host=address, timeout_s=TIMEOUT_S))

    def answers() -> bool:
        with suppress(OSError), client():
            return True
        return False

    try:
        wait_for(answers, what=log.read_text)
        yield client
    finally:
        process.terminate()
        process.wait(10)


def test_nginx_goes_round_a_dead_host_and_tells_who_the_clients_are(
    network: Network, hosts: list[Host], tmp_path: Path
) -> None:
    """Row 112: any TCP balancer will do."""
    with nginx(network, hosts, tmp_path) as client:
        ledger = Ledger(client, SEED, rate=20.0)
        ledger.start()
        ledger.wait_acked(5)
        assert all(host.get("/v1/clients")[1] for host in hosts), "both have clients"
        with client() as known:
            own = "{}:{}".format(*known.socket.getsockname())
            known.connect("known")
            lines = [line for host in hosts for line in host.log().splitlines() if '"client_id":"known"' in line]
            assert [json.loads(line)["address"] for line in lines] == [own]
        hosts[1].kill_all()
        try:
            ledger.wait_acked(5, ledger.acked())
        finally:
            hosts[1].start()
        in_sync(*hosts)
        ledger.settle()


# -- two balancers ---------------------------------------------------------------------------------------------------------------


class Machine:
    """HAProxy and keepalived with the files of deploy/; `priority` as in keepalived.conf."""

    def __init__(self, hosts: list[Host], name: str, priority: int) -> None:
        self.network, self.name = hosts[0].network, name
        self.folder = Path(tempfile.mkdtemp(prefix="mqnode-", dir="/tmp"))
        self.anchor = self.network.run(name, ["sleep", "infinity"])  # by which its namespace is named
        self.haproxy: subprocess.Popen[bytes] | None = None
        self.keepalived: subprocess.Popen[bytes] | None = None
        (self.folder / "haproxy.cfg").write_text(configuration(hosts, self.folder / "control", ":1883", port=PROXIED))
        self.priority = priority

    def start_haproxy(self) -> None:
        self.haproxy = self._run("haproxy", "-db", "-f", "haproxy.cfg")

    def start(self) -> None:
        self.start_haproxy()
        text = (SHIPPED / "keepalived.conf").read_text()
        for old, new in (
            ("interface eth0", f"interface {CLIENTS}"),
            ("priority 101", f"priority {self.priority}"),
            ("10.8.0.100/24", f"{SHARED}/24"),
            ("pgrep -x haproxy", f"pgrep -x haproxy --ns {self.anchor.pid} --nslist net"),  # not that of the other
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (self.folder / "keepalived.conf").write_text(text)
        self.keepalived = self._run("keepalived", "-n", "-l", "-P", "-f", "keepalived.conf", "-p", "pid", "-r", "vrrp")

    def _run(self, *argv: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return self.network.run(self.name, argv, cwd=self.folder, stdout=log, stderr=log)

    def has_address(self) -> bool:
        asked = self.network.run(self.name, ["ip", "-brief", "address", "show", CLIENTS], stdout=subprocess.PIPE)
        return SHARED in asked.communicate(timeout=10)[0].decode()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def close(self) -> None:
        for process in (self.keepalived, self.haproxy, self.anchor):
            if process is not None:
                process.kill()
                process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def machines(hosts: list[Host]) -> Iterator[list[Machine]]:
    with ExitStack() as stack:
        machines = [Machine(hosts, "lb1", 101), Machine(hosts, "lb2", 100)]
        for machine in machines:  # one by one: two that hear nobody at the same moment both take it
            stack.callback(machine.close)
            machine.start()
            wait_for(machines[0].has_address, 20, machines[0].log)
        yield machines


def through(network: Network, version: int = 5) -> Client:
    """It finds out that nobody is there any more, as real ones do by their keep alive."""
    client = network.inside(CLI, lambda: Client(1883, version, host=SHARED, timeout_s=TIMEOUT_S))
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
        client.socket.setsockopt(socket.IPPROTO_TCP, option, 1)
    return client


def moves(ledger: Ledger, there: Machine) -> float:
    """Seconds until the address is there and clients go on."""
    began = time.monotonic()
    wait_for(there.has_address, MOVED_S, there.log)
    ledger.wait_acked(5, ledger.acked(), 20)
    return time.monotonic() - began


def test_the_address_moves_when_its_balancer_or_its_machine_dies(network: Network, machines: list[Machine]) -> None:
    """Row 49: HAProxy dies on the one that has the address, and is started again there; then the other machine dies."""
    first, second = machines
    ledger = Ledger(partial(through, network), SEED, rate=20.0)
    ledger.start()
    ledger.wait_acked(5, timeout_s=20)
    assert first.has_address(), first.log()
    assert not second.has_address(), second.log()
    first.haproxy.kill()
    first.haproxy.wait(10)
    seconds = [moves(ledger, second)]
    assert not first.has_address(), first.log()
    first.start_haproxy()
    wait_for(lambda: first.log().rpartition("Entering ")[2].startswith("BACKUP"), 10, first.log)
    assert second.has_address(), "it does not go back by itself"
    network.cut_clients(second.name)
    try:
        seconds.append(moves(ledger, first))
    finally:
        network.heal()
    print(f"clients went on after {seconds[0]:.1f} s and {seconds[1]:.1f} s")
    ledger.settle(60)
