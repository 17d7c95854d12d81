"""A machine for who follows a page: root of a namespace of a Network, with /etc and /var/lib of its own.

What stands there already is seen, what is written stays there, and all of it is gone at the end. systemd, sudo and the like are
those of machine.sh; `deploy/install` makes the user and the folders that the real one makes, and installs nothing.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.broker import wait_for
from tests.cli.command import MQNODE
from tests.cluster.network import INTERCONNECT, Network

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0
PRIVATE = """
mount -t tmpfs tmpfs "$HOME/private"
for folder in /etc /var/lib $CLOSED; do
  mkdir -p "$HOME/private$folder"/{upper,work}
  mount -t overlay overlay -o "lowerdir=$folder,upperdir=$HOME/private$folder/upper,workdir=$HOME/private$folder/work" $folder
  chmod o+x $folder
done
ip address add "$ADDRESS/24" dev "$INTERCONNECT"
echo ready
read -r _ || true # until the test ends
"""
INSTALL = """#!/bin/bash -eu
[ $# -eq 1 ] && [ -f "$1" ]
systemd-sysusers "$ROOT/systemd/mqnode.sysusers"
systemd-tmpfiles --create "$ROOT/systemd/mqnode.tmpfiles"
"""


def closed() -> list[Path]:
    """Folders above our program that only their owner, who runs the tests, may enter: user mqnode has to, too."""
    folders = {folder for program in (ROOT, Path(sys.executable).resolve()) for folder in program.parents}
    return sorted(folder for folder in folders if not folder.stat().st_mode & 0o001)


class Machine:
    """`address` is its further one on the interconnect, as the page says it."""

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.network, self.name = network, name
        self.home = Path(tempfile.mkdtemp(prefix="mqnode-", dir="/tmp"))
        (self.home / "private").mkdir()
        self.environ = {
            "PATH": f"{MQNODE.parent}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.home), "LC_ALL": "C.UTF-8",
            "ROOT": str(ROOT), "ADDRESS": address, "INTERCONNECT": INTERCONNECT,
            "CLOSED": " ".join(map(str, closed())), "MQNODE_NODE__WORKERS": "1",
        }  # fmt: skip
        self._a_release()
        self._holder = self.popen(["unshare", "--mount", "bash", "-euc", PRIVATE], subprocess.PIPE, subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.environ["BASH_ENV"] = str(ROOT / "tests/cli/machine.sh")

    def _a_release(self) -> None:
        """Here, and as the page calls others."""
        for folder in ("deploy", "dist"):
            (self.home / folder).mkdir()
        (self.home / "dist/mqnode-0-none.whl").touch()
        (self.home / "deploy/install").write_text(INSTALL)
        (self.home / "deploy/install").chmod(0o755)
        for name in ("NEW", "OLD"):
            (self.home / name).symlink_to(self.home)

    def popen(self, command: list[str], stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        return self.network.inside(
            self.name,
            lambda: subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.STDOUT, env=self.environ),
        )

    def close(self) -> None:
        """Its processes end with the Network."""
        self._holder.communicate(timeout=10)
        shutil.rmtree(self.home)

    @property
    def enter(self) -> list[str]:
        """The command that a command of its file system begins with."""
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"]

    @property
    def root(self) -> Path:
        """Its file system, seen from outside."""
        return Path(f"/proc/{self._holder.pid}/root")

    def knows(self, other: Machine) -> None:
        """By name: of scp."""
        (self.home / other.name).symlink_to(other.root)

    def run(self, script: str) -> str:
        """What it says."""
        return Shell(self, script).ended()

    def log(self) -> str:
        log = self.home / "log"
        return log.read_text() if log.exists() else ""


class Shell:
    """A script that runs on a terminal of that machine, at which somebody answers what is asked with yes."""

    def __init__(self, machine: Machine, script: str) -> None:
        self.machine, self.script = machine, script
        self._master, slave = pty.openpty()
        os.write(self._master, b"y\n")
        self._output, _ = tempfile.mkstemp(dir=machine.home)
        command = [*machine.enter, "bash", "-euo", "pipefail", "-c", script]
        self._process = machine.popen(command, slave, self._output)
        os.close(slave)

    def said(self) -> str:
        return os.pread(self._output, 1 << 24, 0).decode()

    def say(self, text: str) -> None:
        """Wait until it does."""
        wait_for(lambda: text in self.said() or self._process.poll() is not None, TIMEOUT_S, self._failure)
        assert text in self.said(), self._failure()

    def ended(self) -> str:
        """What it said."""
        try:
            wait_for(lambda: self._process.poll() is not None, TIMEOUT_S, self._failure)
            assert self._process.returncode == 0, self._failure()
            return self.said()
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._output)
            os.close(self._master)

    def _failure(self) -> str:
        return f"{self.machine.name}$ {self.script}\n{self.said()}\n{self.machine.log()}"
