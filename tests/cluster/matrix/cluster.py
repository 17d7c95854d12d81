"""Hosts that are one cluster, behind HAProxy, each with a shim, a power supply, a disk and an ACL file; and one that may join."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from urllib.parse import quote

from tests.broker import wait_for
from tests.cluster.balancer import Balancer
from tests.cluster.hosts import MESH, Host, join
from tests.cluster.matrix import shim
from tests.cluster.matrix.shim import Shim
from tests.cluster.network import Network
from tests.disk import small_disk
from tests.faults import power
from tests.faults.power import Power
from tests.mqtt import Client

IN_SYNC_S = 30.0
DISK_MIB = 256
ALL_IS_GRANTED = "pattern readwrite #\n"


class Cluster:
    """`hosts`: the members. `spare`: not one yet."""

    def __init__(
        self, network: Network, hosts: list[Host], spare: Host,
        shims: dict[str, Shim], powers: dict[str, Power], acl_files: dict[str, Path],
    ) -> None:  # fmt: skip
        self.network, self.hosts, self.spare = network, hosts, spare
        self.shims, self.powers, self.acl_files = shims, powers, acl_files
        self.balancer = Balancer(hosts)

    def client(self, version: int = 5) -> Client:
        return self.balancer.client(version)

    def heal(self) -> None:
        """All faults that are none of a process end."""
        self.network.heal()
        for each in self.shims.values():
            each.heal()

    def lose_power(self, host: Host, chance: Random) -> None:
        host.kill_all()
        self.powers[host.name].cut(host.data_dir, chance)

    def in_sync(self) -> bool:
        try:
            return all(host.metric("mqnode_peers_in_sync") == len(self.hosts) - 1 for host in self.hosts)
        except AssertionError:  # a host that does not answer yet
            return False

    def wait_in_sync(self) -> None:
        wait_for(
            self.in_sync, IN_SYNC_S, lambda: "not in sync\n" + "\n".join(host.log()[-2000:] for host in self.hosts)
        )

    def forget(self) -> None:
        """All durable sessions, so that nothing of one run is left for the next; each at the host that owns it."""
        for host in self.hosts:
            for session in host.get("/v1/sessions?limit=1000")[1]:
                host.get(f"/v1/sessions/{quote(session['client_id'])}", method="DELETE")


@contextmanager
def running_cluster(size: int = 2) -> Iterator[Cluster]:
    names = [f"h{number + 1}" for number in range(size + 1)]
    with ExitStack() as stack:
        network = stack.enter_context(Network(*names))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mqnode-")))
        libraries = shim.build(folder), power.build(folder)
        shims = {name: Shim(libraries[0], folder / name) for name in names}
        powers = {name: Power(libraries[1], folder / f"{name}.unsynced") for name in names}
        acl_files = {name: folder / f"{name}.acl" for name in names}
        hosts = []
        for name in names:
            acl_files[name].write_text(ALL_IS_GRANTED)
            auth = f'allow_anonymous = true\nacl_file = "{acl_files[name]}"'
            environ = shims[name].environ | powers[name].environ | {"LD_PRELOAD": " ".join(map(str, libraries))}
            data_dir = stack.enter_context(small_disk(DISK_MIB)) / "data"
            host = Host(network, name, interconnect=MESH, workers=2, auth=auth, data_dir=data_dir, environ=environ)
            stack.callback(host.close)
            hosts.append(host)
        for host in hosts[:size]:
            host.start()
        join(*hosts[:size])
        cluster = Cluster(network, hosts[:size], hosts[size], shims, powers, acl_files)
        stack.enter_context(cluster.balancer)
        yield cluster
