"""Hosts of different releases: upgraded one after the other under load, and down again; and those that do not fit.

The other release is this one with other figures in mesh/versions.py, set by a sitecustomize.py of its processes; or, by
`make soak`, a checkout of another commit, in which `setup.py build_ext --inplace` has run: MQNODE_OTHER_RELEASE=FOLDER.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh import versions
from tests.broker import wait_for
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import Network
from tests.faults.ledger import Ledger
from tests.faults.test_kill import SEED
from tests.mqtt import Client

RELEASE = """
import node
node.__version__ = "99.0"
from mesh import versions
versions.LOWEST, versions.HIGHEST, versions.LEVEL = {}
"""
NEXT = RELEASE.format("versions.HIGHEST, versions.HIGHEST + 1, versions.LEVEL + 1")
FAR = RELEASE.format("versions.HIGHEST + 1, versions.HIGHEST + 2, versions.LEVEL + 2")
SAYS_MORE = """
from node.keeper.replicas import Replicas
said = Replicas._say
def say(self, peer, kind, message):
    if "from-the-future" in repr(message):
        said(self, peer, 99, message)
    said(self, peer, kind, message)
Replicas._say = say
"""

Release = Callable[[Host, str | Path], None]


@pytest.fixture(scope="module")
def alone(network: Network) -> Iterator[list[Host]]:
    with running_hosts(network, interconnect=MESH, environ={"MQNODE_NODE__DRAIN_S": "4"}) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def pair(alone: list[Host]) -> list[Host]:
    join(*alone)
    return alone


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """`release(host, source)`: restart it as the release that `source` makes of this one ("": this one), or that of a folder."""

    def install(host: Host, source: str | Path) -> None:
        host.stop()
        folder = source if isinstance(source, Path) else made(source)
        host.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '/')}"
        host.start()

    def made(source: str) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(source)
        return folder

    return install


def nodes(host: Host) -> Any:
    return json.loads(host.mqnode("cluster", "nodes", "--json").stdout)


def trouble(host: Host, other: Host) -> str:
    return next(each["trouble"] for each in nodes(host)["nodes"] if each["name"] == other.name)


def said(host: Host, event: str) -> list[Any]:
    lines = [line for line in host.log().splitlines() if f'"{event}"' in line]
    return [json.loads(line) for line in lines]


def test_a_release_too_far_apart_does_not_join_and_nothing_changes(alone: list[Host], release: Release) -> None:
    first, second = alone
    release(second, FAR)
    for host in alone:
        wait_for((host.run_dir / "interconnect.sock").exists, 15, host.log)
    token = json.loads(first.mqnode("cluster", "token", "create", "--json").stdout)["token"]
    before = [(nodes(host), tables(host)) for host in alone]
    refused = second.mqnode("join", "--token", token)
    assert refused.returncode == 1
    for text in ("the releases do not fit", "versions", "upgrade the older one, by one release at a time"):
        assert text in refused.stderr, refused.stderr
    assert [(nodes(host), tables(host)) for host in alone] == before
    assert [host.get("/ready")[0] for host in alone] == [200, 200]
    release(second, "")


def tables(host: Host) -> list[bytes]:
    """What it has on disk of who is a member, and of how it is called."""
    return [path.read_bytes() for path in sorted(host.data_dir.glob("*.json"))]


def up_and_down_again(pair: list[Host], release: Release, other: str | Path, higher: int) -> None:
    """N-1 beside N, N alone, N beside N-1, under load. `higher`: levels by which the other one is above this one."""
    [level] = {nodes(host)["level"] for host in pair}
    dice = random.Random(SEED)

    def client(version: int) -> Client:
        return dice.choice(pair).client(version)

    ledger = Ledger(client, SEED, rate=40.0, fickle=0.0)
    ledger.start()
    first, second = pair
    lower = min(0, higher)
    for host, source, expected in ((first, other, lower), (second, other, higher), (first, "", lower)):
        ledger.wait_acked(10, ledger.acked())
        release(host, source)
        in_sync(first, second)
        wanted = {level + expected}
        wait_for(lambda wanted=wanted: {nodes(each)["level"] for each in pair} == wanted, 10, f"level {wanted}")
    ledger.settle(60)


@pytest.mark.timeout(180)
def test_up_one_after_the_other_and_down_again(pair: list[Host], release: Release) -> None:
    """Rows 107, 111: nothing is lost, and what is new begins when both have it."""
    first, _ = pair
    up_and_down_again(pair, release, NEXT, 1)
    status = json.loads(first.mqnode("cluster", "status", "--json").stdout)
    assert [each["release"] for each in status["nodes"]][1] == "99.0"
    assert any("waits until all hosts have it: upgrade h1" in warning for warning in status["warnings"])


def test_releases_too_far_apart_serve_and_say_why_they_are_apart(pair: list[Host], release: Release) -> None:
    first, second = pair
    refused = first.metric('mqnode_peers_refused_total{peer="h2"}')
    with first.client() as client:
        client.connect("lasting", session_expiry=3600)
        client.subscribe(("apart/#", 1))
    release(second, FAR)
    for host, other, ours in ((first, second, "99.0"), (second, first, "99.0")):
        wait_for(lambda host=host, other=other: "upgrade the older one" in trouble(host, other), 15, host.log)
        assert ours in trouble(host, other)
        assert other.name in {each["peer"] for each in said(host, "peer_refused")}
        assert host.get("/ready")[0] == 200
    assert first.metric('mqnode_peers_refused_total{peer="h2"}') == refused + 1
    wait_for(lambda: first.metric("mqnode_degraded") == 1)
    with second.client() as client:
        client.connect("publisher")
        client.publish_all("apart/1", b"x")
    release(second, "")
    in_sync(first, second)
    wait_for(lambda: not trouble(first, second))
    with first.client() as client:
        assert client.connect("lasting", clean=False, session_expiry=3600).session_present
        assert client.receive().payload == b"x"


def test_what_is_not_understood_stops_the_link_and_nothing_is_skipped(pair: list[Host], release: Release) -> None:
    first, second = pair
    release(second, SAYS_MORE)
    in_sync(first, second)
    keeper = first.pid("keeper")
    with second.client() as client:
        client.connect("publisher")
        client.publish_all("from-the-future", b"x", retain=True)
        client.publish_all("behind-it", b"x", retain=True)
    wait_for(lambda: "does not understand (message 99" in trouble(first, second), 10, first.log)
    wait_for(lambda: "it refuses this host: " in trouble(second, first), 10, second.log)
    assert first.pid("keeper") == keeper, "it serves on"
    assert first.get("/v1/retained")[1] == []
    release(second, "")
    in_sync(first, second)
    wait_for(lambda: len(first.get("/v1/retained")[1]) == 2, 10)


@pytest.mark.soak
@pytest.mark.skipif("MQNODE_OTHER_RELEASE" not in os.environ, reason="no other release is named")
@pytest.mark.timeout(180)
def test_another_release_as_it_is(pair: list[Host], release: Release) -> None:
    folder = Path(os.environ["MQNODE_OTHER_RELEASE"])
    level = re.search(r"^LEVEL = (\d+)", (folder / "mesh" / "versions.py").read_text(), re.MULTILINE)
    assert level is not None
    up_and_down_again(pair, release, folder, int(level[1]) - versions.LEVEL)
    release(pair[1], "")


def test_a_cluster_keeps_its_name(pair: list[Host]) -> None:
    first, _ = pair
    first.stop()
    first.environ["MQNODE_CLUSTER__NAME"] = "elsewhere"
    first.start()
    [warning] = said(first, "cluster_name_ignored")
    assert 'cluster.name = "elsewhere"' in warning["cause"]
    assert nodes(first)["cluster"] == "mqnode"
