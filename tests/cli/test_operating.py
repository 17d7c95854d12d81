"""docs/operating.md is true: what it says of one host (`sh`) runs as it stands there, and every command and metric is in it.

What takes systemd or several hosts: test_operating_hosts.py.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import Broker, running
from tests.cli.command import MQNODE, TIMEOUT_S, Command
from tests.cli.test_commands import COMMANDS
from tests.mqtt import Client

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """With users, rules, and the clients of whom the document speaks."""
    folder = tmp_path_factory.mktemp("operating")
    (folder / "acl").write_text("topic readwrite #\nuser alice\ntopic readwrite house/#\n")
    auth = f'allow_anonymous = true\npassword_file = "{folder}/users"\nacl_file = "{folder}/acl"'
    (folder / "first.toml").write_text(f'[auth]\npassword_file = "{folder}/users"\n')
    Command(folder / "first.toml")("users", "add", "bob", "--password-stdin", typed="b\n")
    with running(auth=auth) as broker:
        for name in ("sensor-17", "sensor-18"):
            with Client(broker.port) as client:
                client.connect(name, clean=False, session_expiry=3600)
                client.subscribe(("house/#", 1))
                client.disconnect()
        with Client(broker.port) as client:
            client.connect("kitchen")
            client.publish_all("house/kitchen/temperature", b"21.5", 1, retain=True)
            yield broker


def shell(host: Broker, script: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=host.folder, capture_output=True, text=True, timeout=3 * TIMEOUT_S,
        env={"PATH": f"{MQNODE.parent}:/usr/bin:/bin", "MQNODE_CONFIG": str(host.config)}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"


def test_its_commands_run(host: Broker) -> None:
    scripts = [text for language, text in BLOCKS if language == "sh"]
    assert len(scripts) > 5
    for script in scripts:
        shell(host, script)
    assert not host.errors()


def test_its_backup_can_be_restored(host: Broker) -> None:
    shell(host, "rm -f mqnode.backup; mqnode backup create mqnode.backup")
    shell(host, "mqnode sessions delete --yes sensor-18")
    host.stop()
    restore = re.search(r"^mqnode backup restore .*$", DOCUMENT, re.MULTILINE)
    assert restore is not None
    shell(host, restore[0])
    host.start()
    shell(host, "mqnode sessions show sensor-18")


def test_every_command_is_in_it() -> None:
    assert not [name for name in COMMANDS if f"mqnode {name}" not in DOCUMENT]


def test_every_metric_is_in_it(host: Broker) -> None:
    rows = metric_rows(str(host.get("/metrics")[1]))
    assert len(rows) > 30
    in_document = [line for line in DOCUMENT.splitlines() if line.startswith("| `mqnode_")]
    assert in_document == rows, "the table should be:\n" + "\n".join(rows)


@pytest.mark.parametrize("path", ["deploy/prometheus/alerts.yml", "deploy/grafana/mqnode.json"])
def test_alerts_and_dashboard_ask_for_metrics_that_there_are(path: str) -> None:
    known = set(re.findall(r"^\| `(mqnode_\w+)`", DOCUMENT, re.MULTILINE))
    asked = set(re.findall(r"\bmqnode_\w+", (ROOT / path).read_text(encoding="utf-8")))
    assert len(asked) > 10
    assert not {re.sub("_(bucket|sum|count)$", "", name) for name in asked} - known


def test_dashboard_is_json_that_grafana_can_lay_out() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/mqnode.json").read_text(encoding="utf-8"))
    assert [each["title"] for each in dashboard["panels"] if each["type"] == "row"] == [
        "Is it safe?", "Is it up?", "Is it fast?", "Who is noisy?",
    ]  # fmt: skip
    ids = [each["id"] for each in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def metric_rows(text: str) -> list[str]:
    """The rows of the table of metrics, from the answer of GET /metrics."""
    rows = []
    for name, help_text, kind in re.findall(r"^# HELP (\S+) (.*)\n# TYPE \S+ (\w+)$", text, re.MULTILINE):
        labels = set(re.findall(r'(\w+)="', " ".join(re.findall(rf"^{name}(?:_\w+)?{{(.*)}}", text, re.MULTILINE))))
        rows.append(f"| `{name}` | {kind} | {', '.join(sorted(labels - {'le'}))} | {help_text} |")
    return rows
