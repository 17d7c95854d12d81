"""`mqnode start` with real processes: supervisord, the watchdog, and stand-ins for keeper, worker and admin."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from node import counters, supervise, watchdog
from node.config import Config, Listener, Node
from tests.broker import STOP_S, busy, free_port

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = """
import os, signal, sys, time
from node import config, counters, process
process.die_with_parent()
settings = config.load(sys.argv[sys.argv.index("--config") + 1])
index = int(sys.argv[sys.argv.index("--index") + 1]) if "--index" in sys.argv else None
number = {SLOT} if index is None else counters.WORKER_0 + index

def say(what):
    os.write(1, b"%s %d\\n" % (what.encode(), number))  # at once, as others write there, too

signal.signal(signal.SIGHUP, lambda *_: say("reload"))
say("started")
slot = counters.Counters(config.run_dir(settings) / "counters").claim(number)
slot[counters.INDEX["ready"]] = 1
while True:
    counters.beat(slot)
    time.sleep(0.1)
"""


def wait_for(condition: Callable[[], bool], timeout_s: float = 30, what: str = "") -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - start


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Host:
    """A started host in a directory of its own, with our node package but stand-ins for what serves."""

    def __init__(self, workers: int = 2) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mqnode-", dir="/tmp"))  # short: it holds unix sockets
        self.package = self.folder / "path"
        (self.package / "node").mkdir(parents=True)
        for name in (
            "__init__.py",
            "counters.py",
            "life_port.py",
            "log.py",
            "process.py",
            "supervise.py",
            "supervisord.py",
            "watchdog.py",
        ):
            shutil.copy(ROOT / "node" / name, self.package / "node" / name)
        shutil.copy(ROOT / "deploy/supervisord.conf", self.package / "node/supervisord.conf")
        for name in ("config", "listeners"):
            shutil.copytree(ROOT / "node" / name, self.package / "node" / name)
        for name, slot in (("keeper", counters.KEEPER), ("worker", -1), ("admin", counters.ADMIN)):
            (self.package / "node" / f"{name}.py").write_text(STAND_IN.replace("{SLOT}", str(slot)))
        self.run = self.folder / "data/run"
        self.config = self.folder / "it's 100% mine.toml"
        self.config.write_text(
            f'[node]\ndata_dir = "{self.folder}/data"\nworkers = {workers}\n[admin]\nbind = "127.0.0.1:{free_port()}"\n'
            f'[[listeners]]\ntype = "tcp"\nbind = "127.0.0.1:{free_port()}"\n'
        )
        self.slots = [counters.KEEPER, counters.ADMIN, counters.WATCHDOG]
        self.slots += [counters.WORKER_0 + index for index in range(workers)]
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(str(self.folder / "notify"))
        self.environ = {**os.environ, "PYTHONPATH": str(self.package), "NOTIFY_SOCKET": str(self.folder / "notify")}
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "node.supervise", "--config", str(self.config)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environ, stdout=pipe, stderr=pipe, text=True)

    def close(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            print(*self.process.communicate())
        self.notices.close()
        wait_for(lambda: not any(alive(pid) for pid in self.pids()), what="no orphans")
        shutil.rmtree(self.folder)

    def pids(self) -> list[int]:
        if not (self.run / "counters").exists():
            return []
        words = counters.Counters(self.run / "counters")
        return [words.slot(number)[counters.PID] for number in self.slots]

    def is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.process.communicate()
        pids = self.pids()
        return bool(pids) and all(pid and alive(pid) for pid in pids)

    def notified(self, text: str) -> None:
        self.notices.settimeout(30)
        while text not in (got := self.notices.recv(4096).decode()):
            assert got


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    try:
        host.process = host.start()
        yield host
    finally:
        host.close()


def test_starts_says_ready_and_stops(host: Host) -> None:
    assert host.process is not None
    begin = time.monotonic()
    wait_for(host.is_up)
    host.notified("READY=1")
    ready_s = time.monotonic() - begin
    print(f"ready after {ready_s:.2f} s")
    assert ready_s < 5 * busy()  # 1.5 s on two free cores
    host.notified("WATCHDOG=1")
    assert (host.run / "supervisord.conf").stat().st_mode & 0o777 == 0o600
    assert host.run.stat().st_mode & 0o777 == 0o700
    pids = host.pids()
    begin = time.monotonic()
    host.process.send_signal(signal.SIGTERM)
    out, err = host.process.communicate(timeout=STOP_S)
    print(f"stopped after {time.monotonic() - begin:.2f} s")
    assert host.process.returncode == 0
    assert not any(alive(pid) for pid in pids)
    assert sorted(out.splitlines()) == ["started 0", "started 1", "started 8", "started 9"]  # the children's stdout
    assert '"event":"host_ready"' in err  # and their stderr
    host.notified("STOPPING=1")


def test_sighup_reaches_the_workers_and_restarts_nothing(host: Host) -> None:
    assert host.process is not None
    wait_for(host.is_up)
    pids = host.pids()
    host.process.send_signal(signal.SIGHUP)
    out = host.process.stdout
    assert out is not None
    said = list(islice((line for line in out if "reload" in line), 2))
    assert host.pids() == pids
    assert host.is_up()
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(STOP_S) == 0
    assert sorted(said + [line for line in out if "reload" in line]) == ["reload 8\n", "reload 9\n"]


def test_second_start_is_refused(host: Host) -> None:
    wait_for(host.is_up)
    second = host.start()
    _out, err = second.communicate(timeout=STOP_S)
    assert second.returncode == 1
    assert f"pid {host.process.pid}" in err  # type: ignore[union-attr]
    assert "Stop the other one" in err
    assert "Traceback" not in err
    assert host.is_up()


def test_killed_processes_come_back_without_end(host: Host) -> None:
    wait_for(host.is_up)
    for _ in range(6):
        for number in (0, 3):  # keeper and worker-0
            pid = host.pids()[number]
            os.kill(pid, signal.SIGKILL)
            took_s = wait_for(lambda: host.is_up() and host.pids()[number] != pid, what="restart")  # noqa: B023
            print(f"slot {number} back after {took_s:.2f} s")
        while True:  # a full socket must not matter, but is not what is tested here
            try:
                host.notices.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break


def test_stopped_worker_is_killed_and_replaced(host: Host) -> None:
    wait_for(host.is_up)
    pid = host.pids()[3]
    time.sleep(watchdog.FRESH_NS / 1e9 - 2)  # so young a process is given time
    os.kill(pid, signal.SIGSTOP)
    took_s = wait_for(lambda: host.is_up() and host.pids()[3] != pid, what="replacement")
    print(f"replaced after {took_s:.2f} s")
    assert took_s < 6 * busy()


def test_killed_supervisord_leaves_no_orphans(host: Host) -> None:
    assert host.process is not None
    wait_for(host.is_up)
    pids = host.pids()
    host.process.kill()
    took_s = wait_for(lambda: not any(alive(pid) for pid in pids), what="children gone")
    assert took_s < 1 * busy()
    host.process.communicate()
    host.process = host.start()  # and the lock and the address are free again
    wait_for(host.is_up)


def test_address_in_use_is_told_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        host = Host()
        text = host.config.read_text().replace('type = "tcp"\nbind = "127.0.0.1:', 'type = "tcp"\nbind = "127.0.0.1:0')
        host.config.write_text(text.replace(text.rsplit(":", 1)[1].split('"')[0], str(port)))
        process = host.start()
        _, err = process.communicate(timeout=STOP_S)
        host.close()
    assert process.returncode == 1
    assert f"127.0.0.1:{port}: cannot listen: Address already in use" in err
    assert f"ss -ltnp sport = :{port}" in err


def test_unusable_directory_is_told() -> None:
    with pytest.raises(supervise.StartError, match="data_dir"):
        supervise.run("/dev/null", Config(node=Node(data_dir="/proc/nowhere")))


def test_unusable_listener_is_told(tmp_path: Path) -> None:
    config = Config(node=Node(data_dir=str(tmp_path)), listeners=(Listener(type="tls", bind="127.0.0.1:0"),))
    with pytest.raises(supervise.StartError, match="TLS needs `certificate`"):
        supervise.run("/dev/null", config)


def test_judgement_of_heartbeats() -> None:
    s = 1_000_000_000
    process = watchdog.Process(pid=7, started_ns=100 * s)
    assert not watchdog.is_hung(process, 109 * s, 110 * s)
    assert watchdog.is_hung(process, 109 * s, 112 * s)
    assert not watchdog.is_hung(process, 101 * s, 104 * s)  # fresh
    assert not watchdog.is_hung(process, None, 110 * s)  # no beat yet
    assert not watchdog.is_hung(process, 90 * s, 110 * s)  # the beat of its pid's earlier owner
    assert watchdog.is_hung(process, None, 116 * s)
    assert watchdog.is_hung(process, 90 * s, 116 * s)


def test_neither_a_pause_of_all_nor_a_slow_disk_is_a_hang(tmp_path: Path) -> None:
    s = 1_000_000_000
    dog = watchdog.Watchdog(counters.Counters(tmp_path / "counters"), [], os.getpid(), tmp_path / "none")
    idle, waiting = watchdog.Process(7, 100 * s), watchdog.Process(7, 100 * s, in_disk_wait=True)
    stamps = {7: 110 * s}
    assert dog._hung([idle], stamps, 113 * s) == [idle]
    assert dog._hung([waiting], stamps, 113 * s) == []
    assert dog._hung([idle], stamps, 114 * s) == []
    assert dog._hung([idle], stamps, 116 * s) == [idle]
    keeper = watchdog.Slot("keeper", counters.KEEPER)
    words = dog.counters.slot(keeper.number)
    words[counters.PID], words[counters.HEARTBEAT_NS] = 7, 110 * s
    dog.look(116 * s)  # the first for long
    assert dog._hung([idle], stamps, 117 * s) == []
    assert dog._beats(keeper, [idle], 117 * s)
    assert dog._hung([idle], stamps, 118 * s) == [idle]
    assert not dog._beats(keeper, [idle], 118 * s)


def test_paused_host_goes_on(host: Host) -> None:
    assert host.process is not None
    wait_for(host.is_up)
    time.sleep(watchdog.FRESH_NS / 1e9)
    pids = host.pids()
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in [host.process.pid, *pids]:
            os.kill(pid, number)
        time.sleep(3)
    assert host.pids() == pids


def test_only_children_of_the_supervisor_are_seen() -> None:
    others = {each.pid for each in watchdog.children(os.getpid(), {1, os.getppid()})}
    assert not others & {1, os.getppid()}
    with subprocess.Popen(["sleep", "60"]) as child:
        seen = {each.pid: each for each in watchdog.children(os.getpid(), {1, os.getppid()})}
        assert set(seen) - others == {child.pid}
        assert abs(seen[child.pid].started_ns - time.monotonic_ns()) < 1_000_000_000
        child.kill()
