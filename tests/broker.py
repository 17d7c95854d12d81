"""A running host for tests: `mqnode start` with a data directory and ports of its own, its processes by name."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any

START_S, STOP_S = 30.0, 20.0
# Below those that the kernel gives to clients: one of these may take a port between our look and the server's bind.
# In steps: an interconnect has some above its own.
PORTS = range(10_000, 32_000, 8)


def free_port() -> int:
    """A port that nobody has, and that no process of tests on this machine was given of late."""
    with (Path(tempfile.gettempdir()) / f"mqnode-ports-{os.getuid()}").open("a+") as last:
        fcntl.flock(last, fcntl.LOCK_EX)
        last.seek(0)
        turns = itertools.count(int(last.read() or 0) + 1)
        turn = next(turn for turn in turns if _is_free(PORTS[turn % len(PORTS)]))
        last.truncate(0)
        last.write(str(turn))
        return PORTS[turn % len(PORTS)]


def busy() -> float:
    """How many times longer than on a free machine a thing may take now."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def wait_for(condition: Callable[[], Any], timeout_s: float = 10.0, what: str | Callable[[], str] = "") -> Any:
    """The first true value of `condition`; AssertionError with `what` when it stays false for `timeout_s`, which grows
    with the load of the machine."""
    begin = time.monotonic()
    deadline = begin + timeout_s * busy()
    while not (value := condition()):
        now = time.monotonic()
        assert now < deadline, (what() if callable(what) else what) or f"still false after {timeout_s} s"
        time.sleep(min(max(0.01, (now - begin) / 4), 0.1))  # most conditions ask a host, which costs it something
    return value


class Broker:
    """One host. `more` is TOML that goes behind the sections written here ([node], [[listeners]], [auth], [admin])."""

    def __init__(
        self, more: str = "", *, name: str = "n1", address: str = "127.0.0.1", workers: int = 2,
        auth: str = "allow_anonymous = true", data_dir: Path | None = None, environ: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.folder = Path(tempfile.mkdtemp(prefix="mqnode-", dir="/tmp"))  # short: it holds unix sockets
        self.data_dir = data_dir or self.folder / "data"
        self.run_dir = self.folder / "run"
        self.name, self.address, self.workers = name, address, workers
        self.port, self.admin_port = free_port(), free_port()
        self.config = self.folder / "mqnode.toml"
        self.log_path = self.folder / "log"
        self.config.write_text(
            f'[node]\nname = "{name}"\ndata_dir = "{self.data_dir}"\nrun_dir = "{self.run_dir}"\nworkers = {workers}\n'
            f'[[listeners]]\ntype = "tcp"\nbind = "{address}:{self.port}"\n'
            f'advertise = "{address}:{self.port}"\n'
            f'[auth]\n{auth}\n[admin]\nbind = "127.0.0.1:{self.admin_port}"\n{more}'
        )
        self.environ = dict(environ or {})  # of its processes, beside ours
        self.process: subprocess.Popen[bytes] | None = None

    # -- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> Broker:
        self.launch()
        self.wait_ready(START_S)
        return self

    def launch(self) -> None:
        """Start it, whatever becomes of it."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "node.supervise", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=os.environ | self.environ,
            )  # fmt: skip

    def wait_ready(self, timeout_s: float = START_S) -> None:
        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            return self.get("/ready")[0] == 200

        wait_for(ready, timeout_s, self.log)

    def stop(self) -> int:
        """SIGTERM to the whole host; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"it did not stop within {STOP_S} s:\n{self.log()}") from None

    def kill_all(self) -> None:
        """SIGKILL to every process of the host at once, as near as signals can do that."""
        assert self.process is not None
        pids = [self.process.pid, *self.children()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(STOP_S)
        wait_for(lambda: not any(map(_runs, pids)), STOP_S)

    def close(self) -> None:
        """End whatever still runs, remove the folder."""
        if self.process is not None and self.process.poll() is None:
            self.kill_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- its processes -------------------------------------------------------------------------------------------------

    def children(self) -> list[int]:
        assert self.process is not None
        try:
            return [
                int(pid)
                for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            ]
        except FileNotFoundError:
            return []

    def pid(self, name: str) -> int:
        """The pid of "keeper", "worker-0", …; 0 while it does not run."""
        module, _, index = name.partition("-")
        for pid in self.children():
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if f"node.{module}".encode() in line and (not index or index.encode() in line):
                    return pid
        return 0

    def age_s(self, name: str) -> float:
        """Seconds since the process was started; 0 while it does not run."""
        pid = self.pid(name)
        return time.time() - Path(f"/proc/{pid}").stat().st_ctime if pid else 0.0

    def signal(self, name: str, number: int) -> int:
        """Send a signal to one process; its pid."""
        pid = int(wait_for(lambda: self.pid(name), what=f"{name} does not run"))
        os.kill(pid, number)
        return pid

    def replace(self, name: str, number: int = SIGKILL) -> None:
        """Send a signal that ends one process, in the end; until another one runs in its place."""
        pid = self.signal(name, number)
        wait_for(lambda: self.pid(name) not in (0, pid), 20, self.log)

    @contextmanager
    def standing_still(self, *names: str) -> Iterator[None]:
        """These processes, or all, are stopped meanwhile."""
        pids = [pid for name in names if (pid := self.pid(name))]
        if not names:
            assert self.process is not None
            pids = [self.process.pid, *self.children()]
        self._signal_all(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_all(pids, signal.SIGCONT)

    @staticmethod
    def _signal_all(pids: list[int], number: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    # -- what it says ---------------------------------------------------------------------------------------------------

    def get(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Status and decoded body of a request to the admin API; status 0: nobody answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin_port}{path}", method=method)
        token = self.data_dir / "admin.token"
        if token.exists():
            request.add_header("Authorization", f"Bearer {token.read_text().strip()}")
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, _decode(response.read())
        except urllib.error.HTTPError as error:
            return error.code, _decode(error.read())
        except (OSError, ValueError):
            return 0, None

    def metric(self, series: str) -> float:
        """The value of one series of /metrics, labels included: `mqnode_messages_dropped_total{reason="expired"}`."""
        for line in str(self.get("/metrics")[1]).splitlines():
            name, _, value = line.rpartition(" ")
            if name == series:
                return float(value)
        raise AssertionError(f"no series {series}")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def errors(self) -> list[str]:
        """What was logged that should never be: tracebacks and errors."""
        return [line for line in self.log().splitlines() if "Traceback" in line or '"level":"error"' in line]


def _runs(pid: int) -> bool:
    """Not once it is a zombie: whoever inherits those of a killed supervisord may take its time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


@contextmanager
def running(more: str = "", **options: Any) -> Iterator[Broker]:
    """A started Broker; closed at the end."""
    broker = Broker(more, **options)
    try:
        yield broker.start()
    finally:
        broker.close()
