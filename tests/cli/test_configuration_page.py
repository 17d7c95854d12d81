"""docs/configuration.md: its commands run as they stand there, on a machine where systemd and sudo are only heard."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import free_port, wait_for
from tests.cli.command import MQNODE, TIMEOUT_S

PAGE = (Path(__file__).resolve().parents[2] / "docs/configuration.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"(?ms)^```sh\n(.*?)^```$", PAGE) for line in block.splitlines()]
SHELL = 'sudo() { shift 2; "$@"; }; systemctl() { echo "systemctl $*"; }; '


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mqnode-", dir="/tmp"))
    try:
        (folder / "mqnode.toml").write_text(
            f'[node]\ndata_dir = "{folder}/data"\n[admin]\nbind = "127.0.0.1:{free_port()}"\n'
            f'[[listeners]]\ntype = "tcp"\nbind = "127.0.0.1:{free_port()}"\n'
        )
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("line", LINES)
def test_it_runs(home: Path, line: str) -> None:
    environ = {"PATH": f"{MQNODE.parent}:{os.environ['PATH']}", "MQNODE_CONFIG": str(home / "mqnode.toml")}
    command = ["bash", "-euc", SHELL + line.replace("0.0.0.0:1883", f"127.0.0.1:{free_port()}")]
    if not line.endswith("mqnode start"):
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        assert "systemctl" not in line or done.stdout.endswith("systemctl restart mqnode\n")
        return
    log = home / "log"
    with log.open("wb") as file:
        host = subprocess.Popen(command, env=environ, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for(lambda: "host_ready" in log.read_text(), TIMEOUT_S, log.read_text)
        assert '"workers":4' in log.read_text() or "WORKERS" not in line
    finally:
        os.killpg(host.pid, signal.SIGINT)
        assert host.wait(TIMEOUT_S) in (0, 130, -signal.SIGINT)
