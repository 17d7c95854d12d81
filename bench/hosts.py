"""mqnode on several hosts of this machine: a network namespace each where root runs it, else loopback addresses.

The first host serves alone until another joins; a scenario talks to it as to any broker, and to each by its number.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.brokers import Subject, T
from bench.measure import Failed
from tests.cli.command import Command
from tests.cluster.hosts import MESH, Host
from tests.cluster.loopback import Loopback
from tests.cluster.network import CLI, INTERCONNECT, Network, unavailable

IN_SYNC_S = 120.0


class Hosts(Subject):
    name = "mqnode"

    def __init__(self, folder: Path, count: int) -> None:
        names = [f"h{number + 1}" for number in range(count)]
        self.network = Loopback(*names) if unavailable() else Network(*names)
        self.data = Path(tempfile.mkdtemp(prefix="hosts-", dir=folder))
        self.hosts = [
            Host(self.network, name, interconnect=MESH, more="[log]\naccess = false\n", data_dir=self.data / name)
            for name in names
        ]
        self.address, self.port = self.hosts[0].address, self.hosts[0].port
        self.joined = 1
        self.measured = self.hosts[:1]
        self._running = ExitStack()

    def start(self) -> None:
        self._running.enter_context(self.network)
        if isinstance(self.network, Network):
            self.beside(_reuse_ports)
        self.hosts[0].start()

    def one_more(self) -> Host:
        """The next host, started, alone."""
        return self.hosts[self.joined].start()

    def beside(self, call: Callable[[], T]) -> T:
        return self.network.inside(CLI, call)

    def join(self, host: Host) -> Host:
        """With the command that an operator has; in sync with all when it returns."""
        made = self.hosts[0].mqnode("cluster", "token", "create", "--json")
        assert made.returncode == 0, made.stderr
        join = partial(Command(host.config, IN_SYNC_S), "join", "--token", json.loads(made.stdout)["token"])
        done = self.network.inside(host.name, join)
        assert done.returncode == 0, done.stderr
        self.joined += 1
        self.measured.append(host)
        self.in_sync()
        return host

    def in_sync(self) -> None:
        """Asks seldom: the answer costs what is measured."""
        deadline = time.monotonic() + IN_SYNC_S
        members = self.hosts[: self.joined]
        while any(host.metric("mqnode_peers_in_sync") != len(members) - 1 for host in members):
            if time.monotonic() > deadline:
                raise Failed(f"not in sync within {IN_SYNC_S:.0f} s")
            time.sleep(0.05)

    def pids(self) -> list[int]:
        return [pid for host in self.measured for pid in processes(host)]

    def crash(self) -> None:
        self.hosts[0].kill_all()
        self.hosts[0].start()

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        self._running.close()
        shutil.rmtree(self.data, ignore_errors=True)

    def trouble(self) -> list[str]:
        return [line for host in self.hosts for line in host.errors()]


def _reuse_ports() -> None:
    """Tens of thousands of clients come one after the other; on loopback that is how the kernel is set up."""
    Path("/proc/sys/net/ipv4/tcp_tw_reuse").write_text("1")


def processes(host: Host) -> list[int]:
    assert host.process is not None
    return [host.process.pid, *host.children()]


def fall_silent(host: Host) -> None:
    """As a host that has lost its power looks from outside: it answers nobody, and nobody is told."""
    for pid in processes(host):
        os.kill(pid, signal.SIGSTOP)


def received_bytes(host: Host) -> int:
    """What came over the interconnect since it was started, headers and all; 0 on loopback, which does not tell."""

    def read() -> int:
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.lstrip().startswith(f"{INTERCONNECT}:"))

    return host.network.inside(host.name, read)
