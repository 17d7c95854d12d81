"""A host leaves: its listeners first, then its clients, then its sessions, and only then itself; nothing is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from bench.measure import memory_bytes
from mesh.hlc import NODE_ID_BYTES
from storage.layout import DATABASES, META_COVERED, META_EVICTED, META_NODE, META_PEER, open_databases, open_environment
from tests.broker import wait_for
from tests.cli.command import MQNODE
from tests.cluster.hosts import MESH, Host, admit, in_sync, running_hosts
from tests.cluster.network import Network
from tests.cluster.swarm import Swarm, publish_round
from tests.mqtt import DISCONNECT

DURABLE: dict[str, Any] = {"clean": False, "session_expiry": 600}
PROCESSES = "keeper", "interconnect", "worker-0", "admin", "watchdog"
SERVER_MOVED = 0x9D
GROWTH_BYTES = 4 << 20  # of a process's memory, by chance


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    with Network("h1", "h2", "h3") as network, running_hosts(network, interconnect=MESH, workers=1) as hosts:
        for other in hosts[1:]:
            admit(hosts[0], other)
        in_sync(*hosts)
        yield hosts


def nodes(host: Host) -> set[str]:
    return {each["name"] for each in json.loads(host.mqnode("cluster", "nodes", "--json").stdout)["nodes"]}


def state(host: Host, name: str) -> str:
    """Of another host, as this one sees it."""
    found = json.loads(host.mqnode("cluster", "nodes", "--json").stdout)["nodes"]
    return next(str(each["state"]) for each in found if each["name"] == name)


def queued(host: Host, name: str, count: int) -> None:
    """A durable session of that host, whose client is away, with messages."""
    with host.client() as client:
        client.connect(name, **DURABLE)
        client.subscribe((f"{name}/#", 1))
    with host.client() as publisher:
        publisher.connect()
        for number in range(count):
            publisher.publish_all(f"{name}/x", b"%d" % number, 1)


def test_leaving_begins_with_the_listeners_and_can_be_cancelled(hosts: list[Host]) -> None:
    """Rows 85, 86."""
    host = hosts[2]
    with host.client() as client, hosts[0].client() as other:
        for each, name in ((client, "stays"), (other, "other")):
            each.connect(name)
            each.subscribe((name, 1))
        result: list[str] = []
        leaving = threading.Thread(target=lambda: result.append(host.mqnode("leave", "--grace", "60").stderr))
        leaving.start()
        wait_for(lambda: host.get("/ready")[0] == 503, 10, host.log)
        wait_for(lambda: refused(host), 10, host.log)
        assert nodes(host) == nodes(hosts[0]) == {"h1", "h2", "h3"}
        for one, another, topic in ((client, other, "other"), (other, client, "stays")):
            one.publish_all(topic, b"x", 1)
            assert another.take().payload == b"x"
        client.nothing(0)
        assert host.mqnode("leave", "--cancel").returncode == 0
        leaving.join(20)
        assert "cancelled" in result[0]
        wait_for(lambda: not refused(host), 10, host.log)
        assert host.get("/ready")[0] == 200
        client.nothing(0)
        assert host.mqnode("leave", "--cancel").returncode == 1


def test_clients_go_no_faster_than_they_are_told_to(hosts: list[Host]) -> None:
    clients = [hosts[1].client() for _ in range(4)]
    for client in clients:
        client.connect()
    done = hosts[1].mqnode("cluster", "drain", "--grace", "0", "--rate", "4", "--json")
    assert done.returncode == 0, done.stderr
    went = sorted(at_s(line) for line in hosts[1].log().splitlines() if "another host goes on with it" in line)
    assert len(went) == 4
    assert went[-1] - went[0] > 0.6
    assert hosts[1].mqnode("cluster", "drain", "--cancel").returncode == 0
    for client in clients:
        client.close()


def at_s(line: str) -> float:
    return datetime.fromisoformat(json.loads(line)["time"]).timestamp()


def heals(host: Host) -> list[dict[str, Any]]:
    return list(json.loads(host.mqnode("cluster", "heal-report", "--json").stdout)["heals"])


def refused(host: Host) -> bool:
    try:
        with host.client():
            return False
    except OSError:
        return True


def serves_nobody(host: Host) -> None:
    """It starts, and for one reason it is not ready."""
    host.launch()
    wait_for(lambda: ["no member" in each for each in reasons(host)] == [True], 20, host.log)
    assert refused(host)


def reasons(host: Host) -> list[str]:
    return list((host.get("/ready")[1] or {}).get("reasons", ()))


def leaving(host: Host, *arguments: str) -> subprocess.Popen[bytes]:
    """The command, once it has told something."""
    argv = [MQNODE, "leave", "--config", host.config, "--grace", "0", "-i", "0.1", *arguments]
    assert isinstance(host.network, Network)
    command = host.network.run(host.name, argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout is not None
    wait_for(lambda: b"copying" in command.stdout.readline(), 10, host.log)
    return command


def test_a_leave_that_does_not_get_through_says_what_is_left_and_the_host_serves(hosts: list[Host]) -> None:
    """Rows 91, 92: one of the others stands still. That it can be repeated the next test shows."""
    _, other, host = hosts
    queued(host, "unfetched", 1)
    with other.standing_still():
        wait_for(lambda: host.metric("mqnode_peers_evicted") == 1, 15, host.log)
        late = host.mqnode("leave", "--grace", "0", "-t", "2", "-i", "0.7")
        assert late.returncode == 1, late.stdout
        lines = late.stdout.splitlines()
        assert 2 <= len(lines) <= 4, lines
        assert lines[-1] == "copying: 0 clients, 1 session to hand over, waiting for h2"
        assert late.stderr == (
            "It has not left: it did not get through in 2 s, while copying, 0 clients here, 1 session to hand over, "
            "waiting for h2; the host serves. Again, with more time: mqnode leave -t SECONDS\n"
        )
        wait_for(lambda: host.get("/ready")[0] == 200 and not refused(host), 10, host.log)
        command = leaving(host)
        command.kill()
        command.communicate(timeout=10)
        watched = leaving(host)
        assert host.get("/ready")[0] == 503
        host.signal("admin", signal.SIGKILL)
        said = watched.communicate(timeout=20)[1].decode()
        assert watched.returncode == 1
        assert "It has not left: the admin process was started anew" in said
        wait_for(lambda: host.get("/ready")[0] == 200 and not refused(host), 10, host.log)
    in_sync(*hosts)


def test_sessions_move_and_the_host_leaves(hosts: list[Host]) -> None:
    """Rows 87, 88, 90, 91, 92, 93, 94."""
    host = hosts[2]
    made = host.mqnode("cluster", "token", "create", "--json")
    for number in range(20):
        queued(host, f"away{number}", 3)
    clients = [host.client() for _ in range(20)]
    for number, client in enumerate(clients):
        client.connect(f"here{number}", **DURABLE)
        client.subscribe((f"here{number}", 1))
    done = host.mqnode("leave", "--grace", "0", "--rate", "20", "-i", "0.1")
    assert done.returncode == 0, done.stderr + host.log()
    assert "moving: " in done.stdout
    assert host.get("/v1/drain")[1]["failure"] == ""
    for client in clients:
        packet = client.receive()
        assert (packet.kind, packet.reason) == (DISCONNECT, SERVER_MOVED)
        assert packet.properties["server_reference"] in [f"{each.address}:{each.port}" for each in hosts[:2]]
        client.close()
    assert nodes(hosts[0]) == nodes(hosts[1]) == {"h1", "h2"}
    assert "This host is no member of its cluster any more" in host.mqnode("cluster", "show").stdout
    homes = [each["node"] for each in hosts[0].get("/v1/sessions?limit=100")[1] if "away" in each["client_id"]]
    assert (len(homes), homes.count("h1")) == (20, 10)
    wait_for(lambda: '"event":"host_left"' in host.log(), 10, host.log)
    assert host.get("/ready")[0] == host.get("/balancer")[0] == 503
    shown = host.mqnode("status", "--json").stdout
    assert ["no member" in each for each in json.loads(shown)["reasons"] + json.loads(shown)["warnings"]] == [True], (
        shown
    )
    assert hosts[0].metric("mqnode_degraded") == 0
    for number in range(20):
        with hosts[number % 2].client() as client:
            assert client.connect(f"away{number}", **DURABLE).session_present
            assert [client.take().payload for _ in range(3)] == [b"0", b"1", b"2"]
    for each in hosts[:2]:
        assert each.metric('mqnode_takeovers_total{kind="unclean"}') == 0
    assert "it has left" in hosts[0].mqnode("cluster", "heal-report").stdout
    status = host.mqnode("cluster", "status")
    assert "h3 has left this cluster" in status.stdout, status.stderr
    for arguments in (("token", "create"), ("pending",)):
        asked = host.mqnode("cluster", *arguments)
        assert asked.returncode == 1
        assert "no member" in asked.stderr
    joined = hosts[1].mqnode("join", "--token", json.loads(made.stdout)["token"])
    assert joined.returncode == 1
    assert "no member of its cluster any more: join another one" in joined.stderr


def test_a_host_that_left_serves_nobody_until_it_joins_again(hosts: list[Host]) -> None:
    """Row 95: neither its old disk nor a restart brings it back; a token does."""
    host = hosts[2]
    host.stop()
    serves_nobody(host)
    assert nodes(hosts[0]) == {"h1", "h2"}
    with hosts[0].client() as client:
        client.connect("away0", **DURABLE)
        client.publish_all("away1/x", b"new", 1)
    admit(hosts[0], host)
    in_sync(*hosts)
    host.wait_ready()
    wait_for(lambda: not any(each["until_ms"] is None for one in hosts for each in heals(one)), 10)
    with host.client() as client:
        assert client.connect("away1", **DURABLE).session_present
        assert client.take().payload == b"new"
        client.nothing()
    with host.client() as client:
        assert client.connect("away2", **DURABLE).session_present
        client.nothing()


def test_a_dead_host_is_removed_and_its_sessions_go_on(hosts: list[Host]) -> None:
    """Rows 96, 97, 98."""
    host, other = hosts[2], hosts[0]
    for number in range(5):
        queued(host, f"dead{number}", 2)
    host.kill_all()
    wait_for(lambda: other.metric("mqnode_degraded") == 1, 10)
    wait_for(lambda: state(other, "h3") == "evicted", 10)
    status = json.loads(other.mqnode("cluster", "status", "--json").stdout)
    assert not status["in_sync"]
    assert {node["name"]: node["queued_messages"] is None for node in status["nodes"]} == {
        "h1": False, "h2": False, "h3": True,
    }, "what a dead host said last is over"  # fmt: skip
    other.signal("keeper", signal.SIGKILL)  # the next one knows it, too
    asked = wait_for(lambda: None if (done := other.mqnode("leave", "--node", "h3")).returncode == 1 else done, 20)
    assert asked.returncode == 2
    assert re.search(r"h3 was in sync when it went: its sessions \(\d+\) lack nothing that it had ack", asked.stderr)
    for text, count in (("nobody here can know", 1), ("--yes", 1), ("dead0", 0), ("At risk", 0), ("messages here", 0)):
        assert asked.stderr.count(text) == count, asked.stderr
    assert nodes(other) == {"h1", "h2", "h3"}
    removed = other.mqnode("cluster", "remove", "h3", "--yes")
    assert removed.returncode == 0, removed.stderr
    wait_for(lambda: nodes(hosts[1]) == {"h1", "h2"}, 10)
    wait_for(lambda: [each.metric("mqnode_degraded") for each in hosts[:2]] == [0, 0], 10)
    for number in range(5):
        with hosts[number % 2].client() as client:
            assert client.connect(f"dead{number}", **DURABLE).session_present
            assert [client.take().payload for _ in range(2)] == [b"0", b"1"]
    serves_nobody(host)
    assert '"event":"not_a_member"' in host.log()
    assert refused(host)
    asked = host.mqnode("leave")
    assert asked.returncode == 1
    assert "another host removed this one" in asked.stderr
    assert "no member" in host.mqnode("cluster", "token", "create").stderr
    joined = host.log().count('"event":"copy_complete"')
    admit(other, host)
    in_sync(*hosts)
    host.wait_ready()
    assert host.log().count('"event":"copy_complete"') == joined + 1, "before that nobody was let in"
    with other.client() as publisher, host.client() as client:
        assert client.connect("dead0", **DURABLE).session_present
        publisher.connect()
        publisher.publish_all("dead0/x", b"later", 1)
        wait_for(lambda: client.take().payload == b"later", 10)  # what it had had may come again before, see below


def test_a_removed_host_that_joins_again_repeats_nothing(hosts: list[Host]) -> None:
    with hosts[2].client() as client:
        assert client.connect("dead1", **DURABLE).session_present
        client.nothing()


# -- again and again -----------------------------------------------------------------------------------------------------------


def held(host: Host) -> dict[str, Any]:
    """All of which there must not be more at the end; `lives`: stores of other hosts that it has had something of."""
    environment = open_environment(host.data_dir / "store", 1 << 30, readonly=True)
    databases = open_databases(environment, create=False)
    with environment.begin() as transaction:
        kept = [name for name in DATABASES if name not in ("meta", "outbox")]  # that one holds the last commits anyway
        entries = {name: transaction.stat(databases[name])["entries"] for name in kept}
        meta = list(transaction.cursor(db=databases["meta"]).iternext(values=False))
    environment.close()
    return {
        "entries": entries,
        "hosts": {key[-NODE_ID_BYTES:] for key in meta if key.startswith((META_NODE, META_EVICTED))},
        "parts": sum(key.startswith(META_COVERED) for key in meta),
        "lives": sum(key.startswith(META_PEER) for key in meta),
        "members": len(json.loads((host.data_dir / "cluster.json").read_text())["members"]),
        "run_dir": sorted(os.listdir(host.run_dir)),
        "descriptors": sum(len(os.listdir(f"/proc/{host.pid(name)}/fd")) for name in PROCESSES),
    }


def memory(hosts: list[Host]) -> dict[str, int]:
    """By host, process and pid: one that was started anew is a KeyError."""
    pids = {(host.name, name): host.pid(name) for host in hosts for name in PROCESSES}
    return {f"{key} {pid}": memory_bytes([pid]) for key, pid in pids.items()}


def comes_and_goes(guest: Host, stay: list[Host], number: int) -> None:
    """It leaves, a message comes for a session whose client then connects to it again."""
    done = guest.mqnode("leave", "--grace", "0", "-i", "0.1")
    assert done.returncode == 0, done.stderr + guest.log()
    with stay[0].client() as publisher:
        publisher.connect()
        publisher.publish_all("again/x", b"%d" % number, 1)
    admit(stay[0], guest)
    guest.wait_ready()
    with guest.client() as client:
        assert client.connect("again", **DURABLE).session_present
        assert client.take().payload == b"%d" % number


def all_equal(host: Host) -> bool:
    return bool(json.loads(host.mqnode("cluster", "digest", "--json").stdout)["equal"])


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("rounds", [2, pytest.param(50, marks=pytest.mark.soak)])
def test_joining_and_leaving_again_and_again_leaves_nothing_behind(hosts: list[Host], rounds: int) -> None:
    """Row 116: but 16 bytes for each time in the stores of the others, by which they tell what was erased from what is new."""
    *stay, guest = hosts
    queued(guest, "again", 0)
    comes_and_goes(guest, stay, 0)  # the first time brings what is there only once
    wait_for(lambda: all_equal(stay[0]), 20)
    before, used = [held(host) for host in stay], memory(stay)
    for number in range(1, rounds):
        comes_and_goes(guest, stay, number)
    in_sync(*hosts)
    wait_for(lambda: all_equal(stay[0]), 20)
    after = [held(host) for host in stay]
    assert [each.pop("lives") for each in after] == [each.pop("lives") + rounds - 1 for each in before]
    more = [each.pop("descriptors") for each in after], [each.pop("descriptors") for each in before]
    assert max(now - then for now, then in zip(*more, strict=True)) < 4, more  # connections that end just now
    assert after == before
    grown = {name: size - used[name] for name, size in memory(stay).items()}
    assert max(grown.values()) < GROWTH_BYTES, grown


# -- by the thousand -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1000, pytest.param(4000, marks=pytest.mark.soak)])
def test_clients_move_by_the_thousand_and_lose_nothing(hosts: list[Host], count: int) -> None:
    """Row 90: they go where they are told to, while messages for all of them come at another host."""
    *stay, guest = hosts
    assert isinstance(guest.network, Network)
    with (
        Swarm(guest.network, "swarm", count, (guest.address, guest.port)) as swarm,
        stay[0].client() as publisher,
        ThreadPoolExecutor(1) as pool,
    ):
        publisher.connect()
        wait_for(lambda: swarm.ready == count, 30, lambda: f"{swarm.ready} ready, {swarm.errors[:3]}")
        leaving = pool.submit(guest.mqnode, "leave", "--grace", "0", "--rate", "1000")
        rounds = 0
        while rounds == 0 or not leaving.done():
            publish_round(publisher, swarm, rounds)
            rounds += 1
        assert leaving.result().returncode == 0, leaving.result().stderr
        wait_for(
            lambda: swarm.least == rounds and swarm.ready == count,
            30,
            lambda: f"{swarm.least} of {rounds}",
        )
        assert not swarm.errors, swarm.errors[:10]
        assert swarm.ends == {SERVER_MOVED: count}
        print(f"{rounds} messages for each, {swarm.repeats} came again; served by {swarm.homes}")
        assert {host.address for host in stay} == set(swarm.homes)
        assert min(swarm.homes.values()) > count // 4
    admit(stay[0], guest)
    in_sync(*hosts)
