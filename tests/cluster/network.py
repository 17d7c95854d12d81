"""Several hosts on one machine: a network namespace each, and one that holds the switches between them.

    cli ──c0──┐ clients   ┌──c0── h1 ──x0──┐ interconnect
              ├ 10.77.0.0 ┤                ├ 10.78.0.0
              └───────────┴──c0── h2 ──x0──┘

Both switches are bridges in the namespace `wire`, so that a cut is made where no host sees it: no error, no RST.
The names of namespaces hold the pid of their maker; those of a maker that died are removed when the next one starts.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.broker import wait_for
from tests.cluster.capture import Capture, tap

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
PREFIX, NAMESPACES = "mq-", Path("/run/netns")
CLI, WIRE = "cli", "wire"
CLIENTS, INTERCONNECT = "c0", "x0"  # of each host; the ports of the switches are HOST-c0 and HOST-x0
NUMBERS = {CLIENTS: 77, INTERCONNECT: 78}  # in addresses
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def unavailable() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [name for name in ("ip", "tc", "nft") if shutil.which(name, path=_PATH) is None]:
        return f"not installed: {', '.join(missing)} (make tools)"
    probe = f"{PREFIX}{os.getpid()}-probe"
    done = subprocess.run([_tool("ip"), "netns", "add", probe], capture_output=True, text=True)
    if done.returncode == 0:
        subprocess.run([_tool("ip"), "netns", "delete", probe], check=True)
    return f"no network namespaces here: {done.stderr.strip()}" if done.returncode else ""


def need_namespaces() -> None:
    """Skips the test where there are none."""
    import pytest  # which the demo does without

    if reason := unavailable():
        pytest.skip(reason)


class Network:
    """`with Network("h1", "h2") as network:` — everything in it, processes too, is gone at the end. Where there can be none,
    the test is skipped."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self._slow: dict[str, subprocess.Popen[bytes]] = {}
        self._narrow: set[str] = set()
        self._prefix = f"{PREFIX}{os.getpid()}-{secrets.token_hex(2)}-"

    def __enter__(self) -> Network:
        need_namespaces()
        _remove(_orphans())
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for cable in self._slow.values():
            cable.communicate(timeout=10)
        _remove([name for name in _namespaces() if name.startswith(self._prefix)])

    def _make(self) -> None:
        for name in (WIRE, CLI, *self.hosts):
            _call("ip", "netns", "add", self.namespace(name))
            self.inside(name, _no_ipv6)
            _call("ip", "-n", self.namespace(name), "link", "set", "lo", "up")
        for switch in (CLIENTS, INTERCONNECT):
            self._wire(f"link add name {switch} type bridge forward_delay 0 mcast_snooping 0", f"link set {switch} up")
        self._connect(CLI, CLIENTS)
        for name in self.hosts:
            self._connect(name, CLIENTS)
            self._connect(name, INTERCONNECT)
        self._nft("add table bridge faults", "add chain bridge faults cuts { type filter hook forward priority 0 ; }")

    def _connect(self, name: str, side: str) -> None:
        """A cable between the interface `side` of a host and that switch."""
        namespace, port = self.namespace(name), f"{name}-{side}"
        self._wire(
            f"link add name {port} type veth peer name {side} netns {namespace}",
            f"link set {port} master {side}",
            f"link set {port} up",
        )
        _call("ip", "-n", namespace, "address", "add", f"{self.address(name, side)}/24", "dev", side)
        _call("ip", "-n", namespace, "link", "set", side, "up")

    def _wire(self, *commands: str) -> None:
        for command in commands:
            _call("ip", "-n", self.namespace(WIRE), *command.split())

    # -- what is in it ---------------------------------------------------------------------------------------------------

    def namespace(self, name: str) -> str:
        return self._prefix + name

    def address(self, name: str, side: str = CLIENTS) -> str:
        return f"10.{NUMBERS[side]}.0.{254 if name == CLI else self.hosts.index(name) + 1}"

    def inside(self, name: str, call: Callable[[], T]) -> T:
        """The result of `call`, made in that namespace: sockets opened and processes started by it stay there."""

        def enter() -> T:
            with (NAMESPACES / self.namespace(name)).open() as file:
                if _libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns to {name}")
            return call()

        with ThreadPoolExecutor(1) as thread:  # a thread of its own: nobody else's namespace changes
            return thread.submit(enter).result()

    def run(self, name: str, argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[bytes]:
        """A process of that namespace; `options` are those of Popen."""
        return self.inside(name, lambda: subprocess.Popen(argv, env=os.environ | {"PATH": _PATH}, **options))

    def capture(self, name: str, side: str) -> Capture:
        """Counts what passes that interface from now on, until it is closed."""
        return Capture(self.inside(name, lambda: tap(side)))

    # -- faults ----------------------------------------------------------------------------------------------------------

    def cut(self, one: str, other: str, *, both: bool = True) -> None:
        """The interconnect between two hosts; not `both`: only what `one` sends to `other`."""
        self._drop(f"iifname {one}-{INTERCONNECT} oifname {other}-{INTERCONNECT}")
        if both:
            self.cut(other, one, both=False)

    def cut_interconnect(self, name: str) -> None:
        """The host from all others."""
        self._drop(f"iifname {name}-{INTERCONNECT}", f"oifname {name}-{INTERCONNECT}")

    def cut_clients(self, name: str) -> None:
        """The host from all clients and the balancer: half-open connections, for nobody is told."""
        self._drop(f"iifname {name}-{CLIENTS}", f"oifname {name}-{CLIENTS}")

    def cut_port(self, port: int) -> None:
        """Nobody reaches that port over the interconnect; all others are open."""
        self._drop(f"tcp dport {port}")

    def no_multicast(self) -> None:
        """Between all hosts, as in many clouds."""
        self._drop("ip daddr 224.0.0.0/4")

    def lose(self, name: str, percent: int) -> None:
        """That share of what the host sends and gets on the interconnect is lost by chance."""
        chance = f"numgen random mod 100 < {percent}"
        self._drop(f"iifname {name}-{INTERCONNECT} {chance}", f"oifname {name}-{INTERCONNECT} {chance}")

    def slow(self, name: str, delay_ms: float, *, jitter_ms: float = 0, duplicate_percent: float = 0) -> None:
        """A slow cable to the interconnect, in both directions; jitter reorders. The link is down for a moment."""
        port, far, near = f"{name}-{INTERCONNECT}", f"{name}-far", f"{name}-near"
        self._wire(f"link set {port} down", f"link set {port} nomaster name {far}", f"link set {far} up")
        self._wire(f"link add name {near} type veth peer name {port}", f"link set {near} up")
        self._wire(f"link set {port} master {INTERCONNECT}", f"link set {port} up")
        numbers = [str(number) for number in (delay_ms, jitter_ms, duplicate_percent)]
        cable = self.run(
            WIRE, [sys.executable, "-m", "tests.cluster.slow", far, near, *numbers],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        self._slow[name] = cable
        assert cable.stdout is not None
        assert cable.stdout.readline() == b"ready\n"

    def _quick(self, name: str) -> None:
        """The cable as it was."""
        self._slow.pop(name).communicate(timeout=10)
        port, far = f"{name}-{INTERCONNECT}", f"{name}-far"
        self._wire(f"link delete {name}-near", f"link set {far} down", f"link set {far} name {port}")
        self._wire(f"link set {port} master {INTERCONNECT}", f"link set {port} up")

    def narrow(self, name: str, kbit: int) -> None:
        """A narrow cable to the interconnect: so many kbit/s in each direction, and a short queue before it."""
        self._queue(name, f"tbf rate {kbit}kbit burst 4kb limit 64kb")
        self._narrow.add(name)

    def _queue(self, name: str, kind: str) -> None:
        for where, interface in ((WIRE, f"{name}-{INTERCONNECT}"), (name, INTERCONNECT)):
            _call("tc", "-n", self.namespace(where), *f"qdisc replace dev {interface} root {kind}".split())

    def heal(self) -> None:
        """All cuts and losses end, all cables are quick and wide."""
        self._nft("flush chain bridge faults cuts")
        for name in list(self._slow):
            self._quick(name)
        while self._narrow:
            self._queue(self._narrow.pop(), "noqueue")

    def _drop(self, *matches: str) -> None:
        """ARP passes: what is healed works at once, not after a neighbour's next question."""
        self._nft(*(f"add rule bridge faults cuts meta protocol ip {match} drop" for match in matches))

    def _nft(self, *commands: str) -> None:
        text = "".join(f"{command}\n" for command in commands)
        process = self.run(WIRE, [_tool("nft"), "-f", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        _, said = process.communicate(text.encode(), 10)
        assert process.returncode == 0, said.decode()


def _tool(name: str) -> str:
    return shutil.which(name, path=_PATH) or name


def _call(*argv: str) -> None:
    done = subprocess.run([_tool(argv[0]), *argv[1:]], capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"


def _no_ipv6() -> None:
    """No neighbour discovery among the frames that are counted."""
    for which in ("all", "default"):
        with suppress(FileNotFoundError):
            Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6").write_text("1")


def _namespaces() -> list[str]:
    return [name for name in os.listdir(NAMESPACES) if name.startswith(PREFIX)] if NAMESPACES.exists() else []


def _orphans() -> list[str]:
    return [name for name in _namespaces() if not Path(f"/proc/{name.split('-')[1]}").exists()]


def _remove(namespaces: list[str]) -> None:
    pids = [pid for name in namespaces for pid in _processes(name)]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(_processes(name) for name in namespaces), 10, "killed processes are still there")
    for name in namespaces:
        subprocess.run([_tool("ip"), "netns", "delete", name], capture_output=True)


def _processes(namespace: str) -> list[int]:
    done = subprocess.run([_tool("ip"), "netns", "pids", namespace], capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split()]
