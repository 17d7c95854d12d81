"""`mqnode init`: from nothing to a host that runs, and the lines for its first messages and for the next host."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from mesh.token import Token
from tests.broker import Broker, free_port, wait_for
from tests.cli.command import MQNODE, TIMEOUT_S, Command
from tests.cluster.loopback import Loopback
from tests.cluster.network import INTERCONNECT


def test_from_nothing_to_the_line_for_the_next_host(folder: Path) -> None:
    config = folder / "etc" / "mqnode.toml"
    mqnode = Command(config)
    address = Loopback("n1").address("n1", INTERCONNECT)
    first = mqnode.json("init", "--name", "n1", "--data-dir", str(folder / "data"), "--interconnect", f"{address}:7001")
    assert first["config_made"]
    assert not first["running"]
    assert first["join"] is None
    assert "mqnode start" in first["next"]
    assert mqnode("config", "check").returncode == 0
    text = config.read_text()
    assert all(line.startswith("#") or "=" in line or not line or line.startswith("[") for line in text.splitlines())
    port = free_port()
    config.write_text(text.replace(":1883", f":{port}").replace(":8081", f":{free_port()}"))
    with (folder / "log").open("wb") as log:
        host = subprocess.Popen([MQNODE, "start", "--config", config], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: mqnode("check", "ready").returncode == 0, 3 * TIMEOUT_S, (folder / "log").read_text)
        wait_for((folder / "data" / "run" / "interconnect.sock").exists, TIMEOUT_S, (folder / "log").read_text)
        again = mqnode.json("init", "--name", "other")
        assert not again["config_made"]
        assert (again["node"], again["running"]) == ("n1", True)
        assert (again["node_id"], again["fingerprint"]) == (first["node_id"], first["fingerprint"])
        assert again["listeners"] == [f"tcp 127.0.0.1:{port}"]
        peer, line = shlex.split(again["join"])[3::2]
        assert (peer, Token.parse(line).address) == (f"{address}:7002", f"{address}:7002")
        _say_hello(again["try"])
        shown = mqnode("init").stdout
        assert "mosquitto_sub" in shown
        assert f"mqnode join --peer {address}:7002 --token mqn1-" in shown
    finally:
        host.send_signal(signal.SIGTERM)
        assert host.wait(TIMEOUT_S) == 0


def _say_hello(lines: list[str]) -> None:
    """The two lines, as people would run them."""
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto-clients are not installed")
    subscribe, publish = map(shlex.split, lines)
    with subprocess.Popen([*subscribe, "-C", "1", "-W", "20"], stdout=subprocess.PIPE, text=True) as subscriber:
        done = subprocess.run([*publish, "-r"], timeout=TIMEOUT_S)  # retained: whoever is first
        assert done.returncode == 0
        said, _ = subscriber.communicate(timeout=2 * TIMEOUT_S)
    assert said == "greetings/world hello\n"


def test_a_host_alone_is_told_how_not_to_be(folder: Path) -> None:
    config = folder / "mqnode.toml"
    said = Command(config)("init", "--data-dir", str(folder / "data")).stdout
    assert f"{config} (made)" in said
    assert "systemctl start mqnode" in said
    assert "# bind = " in config.read_text()
    assert json.loads((folder / "data" / "identity.json").read_text())["node_id"]


def test_another_host_has_the_address(broker: Broker, folder: Path) -> None:
    """It runs, and this one does not."""
    mqnode = Command(folder / "mqnode.toml")
    mqnode("init", "--data-dir", str(folder / "data"))
    mqnode.config.write_text(mqnode.config.read_text().replace("127.0.0.1:8081", f"127.0.0.1:{broker.admin_port}"))
    assert not mqnode.json("init")["running"]
    (folder / "data" / "admin.token").write_text("of its last start")
    assert not mqnode.json("init")["running"]


def test_where_nothing_may_be_written(folder: Path) -> None:
    (folder / "file").write_text("")
    said = Command(folder / "file" / "mqnode.toml").fails("init", code=1)
    assert "cannot be written" in said
    assert "--config" in said


def test_a_mistake_in_an_option_leaves_nothing_behind(folder: Path) -> None:
    """So the corrected command makes the configuration."""
    mqnode = Command(folder / "mqnode.toml")
    assert "mqnode init" in mqnode.fails("status", code=2)  # without a configuration the way to one is told
    said = mqnode.fails("init", "--interconnect", "10.9.0.1", "--data-dir", str(folder / "data"), code=2)
    assert '"10.9.0.1" is not ADDRESS:PORT' in said
    assert list(folder.iterdir()) == []
    assert mqnode.json("init", "--interconnect", "10.9.0.1:7001", "--data-dir", str(folder / "data"))["config_made"]


def test_a_host_that_does_not_run_is_said_to(folder: Path) -> None:
    mqnode = Command(folder / "mqnode.toml")
    mqnode.json("init", "--interconnect", "10.9.0.1:7001", "--data-dir", str(folder / "data"))
    said = mqnode.fails("cluster", "status", code=1)
    assert said.startswith("Error: The interconnect does not answer")
    assert "Is the host running" in said
    assert "mqnode status" in said
