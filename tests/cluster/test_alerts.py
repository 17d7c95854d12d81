"""deploy/prometheus/alerts.yml in a real Prometheus that watches two hosts: silent while all is well, and what fails is named."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.broker import free_port, wait_for
from tests.cluster.hosts import MESH, Host, in_sync, join
from tests.cluster.loopback import Loopback
from tests.cluster.matrix import shim
from tests.cluster.matrix.shim import Shim

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus here; make soak installs it")

RULES = Path(__file__).resolve().parents[2] / "deploy/prometheus/alerts.yml"
CONFIG = """global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: mqnode
    static_configs: [{{targets: {targets}}}]
"""
SEEN_S = 10.0  # an eviction takes 3, the scrape and the rules 1 each
FIRES_S = 60.0  # MqnodeDown: for so long
Alert = tuple[str, str]  # its name, and the name of the host


class Prometheus:
    def __init__(self, hosts: list[Host], folder: Path) -> None:
        self.names = {f"127.0.0.1:{host.admin_port}": host.name for host in hosts}
        self.url = f"http://127.0.0.1:{free_port()}"
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(rules=json.dumps(str(RULES)), targets=json.dumps(list(self.names))))
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={self.url.removeprefix('http://')}", "--log.level=error"],
        )  # fmt: skip

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return json.load(answer)["data"]

    def watches(self) -> bool:
        """Has it read from all?"""
        try:
            return {each["health"] for each in self.ask("/api/v1/targets")["activeTargets"]} == {"up"}
        except OSError:
            return False

    def looks_again(self) -> None:
        """At all hosts, then at the rules."""
        before = self._evaluations()
        wait_for(lambda: self._evaluations() > before + 2, 20)

    def _evaluations(self) -> int:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = re.search(r"^prometheus_rule_group_iterations_total{.*} (\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else 0

    def alerts(self, *states: str) -> dict[Alert, str]:
        """With what the operator reads."""
        return {
            (each["labels"]["alertname"], self.names[each["labels"]["instance"]]): each["annotations"]["summary"]
            for each in self.ask("/api/v1/alerts")["alerts"]
            if each["state"] in (states or ("pending", "firing"))
        }

    def says(self, *wanted: Alert, state: str = "", timeout_s: float = SEEN_S) -> None:
        states = (state,) if state else ()
        wait_for(lambda: set(wanted) <= self.alerts(*states).keys(), timeout_s, lambda: str(self.alerts()))


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """Of h2."""
    folder = tmp_path_factory.mktemp("shim")
    return Shim(shim.build(folder), folder / "told")


@pytest.fixture(scope="module")
def hosts(clock: Shim) -> Iterator[list[Host]]:
    network = Loopback("h1", "h2")
    with ExitStack() as stack:
        hosts = [
            Host(network, name, interconnect=MESH, environ=clock.environ if name == "h2" else None)
            for name in network.hosts
        ]
        for host in hosts:
            stack.callback(host.close)
            host.start()
        join(*hosts)
        yield hosts


@pytest.fixture(scope="module")
def prometheus(hosts: list[Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    prometheus = Prometheus(hosts, tmp_path_factory.mktemp("prometheus"))
    try:
        wait_for(prometheus.watches, 20)
        yield prometheus
    finally:
        prometheus.close()


def stored(host: Host) -> None:
    """A message that is acknowledged when it is stored."""
    with host.client() as client:
        client.connect()
        client.publish_all("kept", b"x", 1, retain=True)


def test_nothing_is_said_while_all_is_well(prometheus: Prometheus, hosts: list[Host]) -> None:
    stored(hosts[0])
    prometheus.looks_again()
    assert prometheus.alerts() == {}


def test_a_clock_that_is_ahead_is_named(prometheus: Prometheus, clock: Shim) -> None:
    clock.clock(5)
    try:
        prometheus.says(("MqnodeClocksApart", "h1"))
        assert re.search(r"the clock of h2 is [45]\.?\d*s ahead", prometheus.alerts()["MqnodeClocksApart", "h1"])
    finally:
        clock.clock()
    wait_for(lambda: prometheus.alerts() == {}, SEEN_S, lambda: str(prometheus.alerts()))


def test_a_process_that_keeps_dying_is_named(prometheus: Prometheus, hosts: list[Host]) -> None:
    for _ in range(3):
        hosts[0].replace("worker-0")
        wait_for(lambda: hosts[0].get("/ready")[0] == 200, 20)
        prometheus.looks_again()
    prometheus.says(("MqnodeProcessRestarts", "h1"), state="firing")
    assert "worker-0 was started anew 3 times" in prometheus.alerts()["MqnodeProcessRestarts", "h1"]


@pytest.mark.parametrize("fires", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_dead_host_is_named(prometheus: Prometheus, hosts: list[Host], fires: bool) -> None:
    first, second = hosts
    second.kill_all()
    try:
        prometheus.says(("MqnodeDown", "h2"), ("MqnodeDegraded", "h1"))
        stored(first)
        prometheus.says(("MqnodeSoloAcks", "h1"), state="firing")
        if fires:
            prometheus.says(("MqnodeDown", "h2"), state="firing", timeout_s=FIRES_S + SEEN_S)
    finally:
        second.start()
    in_sync(first, second)
    over = {("MqnodeDown", "h2"), ("MqnodeDegraded", "h1")}
    wait_for(lambda: not over & prometheus.alerts().keys(), SEEN_S, lambda: str(prometheus.alerts()))
