"""What people install: the wheel in an empty environment starts a broker that mosquitto's clients can use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.broker import free_port

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, timeout_s: float = 900) -> str:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def mqnode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command."""
    run("make", "--silent", "wheel")
    newest = max((ROOT / "dist").glob("mqnode-*.whl"), key=lambda path: path.stat().st_mtime)
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", str(venv))
    run(str(venv / "bin/pip"), "install", "--quiet", str(newest))
    return venv / "bin/mqnode"


@pytest.mark.timeout(1200)
def test_installed_wheel_serves(mqnode: Path, folder: Path) -> None:
    port = free_port()
    config = folder / "mqnode.toml"
    config.write_text(
        f'[node]\ndata_dir = "{folder}/data"\nworkers = 2\n[admin]\nbind = "127.0.0.1:{free_port()}"\n'
        f'[[listeners]]\ntype = "tcp"\nbind = "127.0.0.1:{port}"\n'
    )
    at = ["-h", "127.0.0.1", "-p", str(port), "-q", "1", "-t", "a/b"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with (folder / "log").open("w") as log:
        broker = subprocess.Popen(
            [str(mqnode), "start", "--config", str(config)], cwd=folder, env=environ, stdout=log, stderr=log
        )
    try:
        wait_for_port(port, broker, folder / "log")
        subscribe = ["mosquitto_sub", *at, "-C", "1", "-W", "20", "-i", "s", "-c"]
        run(*subscribe, "-E")  # leaves the subscription behind
        run("mosquitto_pub", *at, "-m", "over the wheel", timeout_s=20)
        assert run(*subscribe, timeout_s=30) == "over the wheel\n"
        broker.send_signal(signal.SIGTERM)
        assert broker.wait(30) == 0
    finally:
        broker.kill()
        broker.wait()


def wait_for_port(port: int, broker: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert broker.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(log.read_text())
