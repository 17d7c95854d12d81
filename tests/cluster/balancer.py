"""HAProxy with deploy/haproxy*.cfg in front of the hosts of a Network: the file that people copy is the one that is tested."""

from __future__ import annotations

import csv
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.broker import wait_for
from tests.cluster.hosts import PROXIED_PORT, TIMEOUT_S, Host
from tests.cluster.network import CLI
from tests.mqtt import Client

SHIPPED = Path(__file__).resolve().parents[2] / "deploy"
CONNECTIONS = 5000


def configuration(
    hosts: Sequence[Host], control: Path, front: str, by_client_id: bool = True, port: int = PROXIED_PORT
) -> str:
    """The shipped configuration for these addresses, with a control socket and fewer descriptors."""
    servers = "".join(f"  server {host.name} {host.address}:{port}\n" for host in hosts)
    changes = [
        (r"^global\n  maxconn .*$", f"global\n  maxconn {CONNECTIONS}\n  stats socket {control} level admin"),
        (r"^  bind :1883$", f"  bind {front}"),
        (r"(^  server .*\n)+", servers),
    ]
    name = "haproxy.cfg" if by_client_id else "haproxy-roundrobin.cfg"
    text = (SHIPPED / name).read_text()
    for old, new in changes:
        text, replaced = re.subn(old, new, text, flags=re.MULTILINE)
        assert replaced == 1, f"deploy/{name}: {replaced} × {old}"
    return text


class Balancer:
    """Clients reach all hosts at its one address. Not `by_client_id`: hosts take turns."""

    def __init__(self, hosts: Sequence[Host], *, by_client_id: bool = True, port: int = 1883) -> None:
        self.network, self.hosts, self.port = hosts[0].network, hosts, port
        self.address = self.network.address(CLI)
        self.folder = Path(tempfile.mkdtemp(prefix="mqnode-", dir="/tmp"))
        self.control, self.config = self.folder / "control", self.folder / "haproxy.cfg"
        self.config.write_text(configuration(hosts, self.control, f"{self.address}:{port}", by_client_id))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Balancer:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Balancer:
        """Returns when all hosts are up."""
        checked = subprocess.run(["haproxy", "-c", "-f", self.config], capture_output=True, text=True, timeout=10)
        assert checked.returncode == 0, checked.stderr
        with (self.folder / "log").open("ab") as log:
            self.process = self.network.run(CLI, ["haproxy", "-db", "-f", self.config], stdout=log, stderr=log)
        names = {host.name for host in self.hosts}
        wait_for(lambda: self.up() == names, 10, lambda: f"up: {self.up()}\n{(self.folder / 'log').read_text()}")
        return self

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self, version: int = 5) -> Client:
        return self.network.inside(CLI, lambda: Client(self.port, version, host=self.address, timeout_s=TIMEOUT_S))

    def up(self) -> set[str]:
        """The hosts that get connections. A host that failed its last check, but not enough of them, is among them."""
        try:
            rows = csv.DictReader(self.ask("show stat").removeprefix("# ").splitlines())
        except OSError:
            return set()
        return {row["svname"] for row in rows if row["svname"] != "BACKEND" and row["status"].startswith("UP")}

    def ask(self, command: str) -> str:
        """The answer of HAProxy's control socket."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(str(self.control))
            control.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: control.recv(65536), b"")).decode()
