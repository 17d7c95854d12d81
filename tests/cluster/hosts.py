"""A host of a Network: a Broker in a namespace of its own, with what it needs to stand behind the balancer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from tests.broker import Broker, wait_for
from tests.cli.command import Command
from tests.cluster.loopback import Loopback
from tests.cluster.network import CLI, INTERCONNECT, Network
from tests.mqtt import Client

PROXIED_PORT, HEALTH_PORT = 1883, 8082  # as deploy/haproxy.cfg has them
TIMEOUT_S = 15.0
MESH = '[interconnect]\nbind = "{address}:7001"\n'
BEHIND = """health_bind = "{address}:{health_port}"
[[listeners]]
type = "tcp"
bind = "{address}:{port}"
proxy_protocol = "required"
proxy_networks = ["{balancer}"]
"""


class Host(Broker):
    """Clients reach it at `address`, with a PROXY header at PROXIED_PORT, and without one at `port`.

    `interconnect` is TOML in which "{address}" stands for the host's address on the interconnect.
    """

    def __init__(
        self,
        network: Network | Loopback,
        name: str,
        *,
        interconnect: str = "",
        more: str = "",
        workers: int = 1,
        **options: Any,
    ) -> None:
        self.network = network
        address = network.address(name)
        behind = BEHIND.format(
            address=address, port=PROXIED_PORT, health_port=HEALTH_PORT, balancer=network.address(CLI)
        )
        inner = interconnect.replace("{address}", network.address(name, INTERCONNECT))
        super().__init__(behind + inner + more, name=name, address=address, workers=workers, **options)

    def launch(self) -> None:
        self.network.inside(self.name, super().launch)

    def get(self, path: str, method: str = "GET") -> tuple[int, Any]:
        return self.network.inside(self.name, partial(super().get, path, method))

    def client(self, version: int = 5) -> Client:
        """A connection from the clients' side, past the balancer."""
        return self.network.inside(CLI, lambda: Client(self.port, version, host=self.address, timeout_s=TIMEOUT_S))

    def mqnode(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """The command line on that host."""
        return self.network.inside(self.name, partial(Command(self.config), *arguments, **options))


@contextmanager
def running_hosts(network: Network | Loopback, **options: Any) -> Iterator[list[Host]]:
    """All hosts of the network, started at the same time."""
    with ExitStack() as stack:
        hosts = [Host(network, name, **options) for name in network.hosts]
        for host in hosts:
            stack.callback(host.close)
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(Host.start, hosts))
        yield hosts


def admit(member: Host, newcomer: Host) -> None:
    """With the commands that an operator has."""
    for host in (member, newcomer):
        wait_for((host.run_dir / "interconnect.sock").exists, 15, host.log)
    made = member.mqnode("cluster", "token", "create", "--json")
    assert made.returncode == 0, made.stderr
    joined = newcomer.mqnode("join", "--token", json.loads(made.stdout)["token"])
    assert joined.returncode == 0, joined.stderr


def join(first: Host, *others: Host) -> None:
    """Make them one cluster."""
    for other in others:
        admit(first, other)
    in_sync(first, *others)


def in_sync(*hosts: Host) -> None:
    wait_for(lambda: all(each.metric("mqnode_peers_in_sync") == len(hosts) - 1 for each in hosts), 20, "not in sync")
