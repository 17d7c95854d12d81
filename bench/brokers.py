"""The brokers that are compared: each with a port, its processes, a start and an end. Their data lies on the disk of `folder`.

Mqnode runs as for the tests (tests/broker.py); the others as their packages give them, limits raised where they would drop
and Nagle's algorithm off, which costs 40 ms at low rates.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from node.core.load import Load
from tests.broker import STOP_S, Broker, free_port, wait_for

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
MOSQUITTO = "/usr/sbin/mosquitto"
AEDES = """
const {{Aedes}} = require('aedes');
Aedes.createBroker().then(broker => require('net').createServer({{noDelay: true}}, broker.handle).listen({port}, '127.0.0.1'));
"""


class Subject(ABC):
    """A broker under measurement."""

    name: str
    address = "127.0.0.1"
    port: int

    @abstractmethod
    def start(self) -> None: ...

    def load(self, **options: Any) -> Load:
        return Load(self.address, self.port, **options)

    def beside(self, call: Callable[[], T]) -> T:
        """The result of `call`, made where its clients are."""
        return call()

    @abstractmethod
    def pids(self) -> list[int]: ...

    @abstractmethod
    def crash(self) -> None:
        """kill -9 of all processes at once, then start again on what is on disk."""

    @abstractmethod
    def close(self) -> None: ...

    def trouble(self) -> list[str]:
        """What it logged that it should not have."""
        return []


class Mqnode(Subject):
    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.name = "mqnode"
        self.data = Path(tempfile.mkdtemp(prefix="mqnode-", dir=folder))
        self.host = Broker("[log]\naccess = false\n", workers=workers, data_dir=self.data)
        self.port = self.host.port

    def start(self) -> None:
        self.host.start()

    def pids(self) -> list[int]:
        assert self.host.process is not None
        return [self.host.process.pid, *self.host.children()]

    def crash(self) -> None:
        self.host.kill_all()
        self.host.start()

    def close(self) -> None:
        self.host.close()
        shutil.rmtree(self.data, ignore_errors=True)

    def trouble(self) -> list[str]:
        return self.host.errors()


class _Process(Subject):
    """One process that listens once it is up."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=folder))
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]: ...

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=ROOT / "tests/interop", stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(self._listens, 20, (self.folder / "log").read_text)

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        at = f":{self.port:04X} 00000000:0000 0A"
        return any(at in line for line in Path("/proc/net/tcp").read_text().splitlines())

    def pids(self) -> list[int]:
        assert self.process is not None
        return [self.process.pid]

    def crash(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.start()

    def close(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Mosquitto(_Process):
    """With a database on disk, as Debian's; it is written when the broker ends."""

    name = "mosquitto"

    def command(self) -> list[str]:
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 1000\n"
            f"max_queued_messages 0\nset_tcp_nodelay true\nlog_type error\npersistence true\npersistence_location {self.folder}/\n"
        )
        return [MOSQUITTO, "-c", str(config)]


class Amqtt(_Process):
    name = "amqtt"

    def command(self) -> list[str]:
        config = self.folder / "amqtt.yaml"
        config.write_text(
            f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{self.port}\n"
            "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
        )
        return [str(Path(sys.executable).with_name("amqtt")), "-c", str(config)]


class Aedes(_Process):
    name = "aedes"

    def command(self) -> list[str]:
        return ["node", "-e", AEDES.format(port=self.port)]


def installed() -> dict[str, Callable[[Path], Subject]]:
    """The brokers that this machine can start; mqnode first."""
    subjects: dict[str, Callable[[Path], Subject]] = {"mqnode": Mqnode}
    if Path(MOSQUITTO).exists():
        subjects["mosquitto"] = Mosquitto
    if Path(sys.executable).with_name("amqtt").exists():
        subjects["amqtt"] = Amqtt
    if shutil.which("node") and (ROOT / "tests/interop/node_modules/aedes").exists():
        subjects["aedes"] = Aedes
    return subjects
