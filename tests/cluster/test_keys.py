"""Keys between hosts: no secret shows (hardening.md S28), and a host gets others while its cluster is under load (B4)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from mesh.identity import Identity, load_or_create
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import INTERCONNECT, Network
from tests.faults.ledger import Ledger
from tests.faults.test_kill import SEED
from tests.mqtt import Client

JOIN_PORT = 7002


@pytest.fixture(scope="module")
def pair(network: Network) -> Iterator[list[Host]]:
    with running_hosts(network, interconnect=MESH) as hosts:
        join(*hosts)
        yield hosts


def identity(host: Host) -> Identity:
    return load_or_create(host.data_dir / "identity.json")


def lets_in(host: Host, client: Identity, server: Identity, port: int = 7001) -> bool:
    """Does the host's interconnect take a connection with these keys?"""
    return host.network.inside(host.name, lambda: _lets_in(host, client, server, port))


def _lets_in(host: Host, client: Identity, server: Identity, port: int) -> bool:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.CURVE_SERVERKEY, server.public_key.encode()),
            (zmq.CURVE_PUBLICKEY, client.public_key.encode()),
            (zmq.CURVE_SECRETKEY, client.secret_key.encode()),
        ):
            dealer.setsockopt(option, value)
        dealer.connect(f"tcp://{host.network.address(host.name, INTERCONNECT)}:{port}")
        found = bool(monitor.poll(2000))
        dealer.disable_monitor()
        monitor.close()
        return found


def test_no_secret_is_in_arguments_environments_logs_or_answers(pair: list[Host]) -> None:
    """S28; the identity is the only file that has it."""
    for host in pair:
        secret = identity(host).secret_key.encode()
        assert secret in (host.data_dir / "identity.json").read_bytes(), "the test can see it"
        assert host.process is not None
        processes = [Path("/proc") / str(pid) for pid in (host.process.pid, *host.children())]
        assert len(processes) > 4
        shown = [(process / name).read_bytes() for process in processes for name in ("cmdline", "environ")]
        shown += [host.log().encode(), str(host.get("/metrics")).encode(), str(host.get("/v1/status")).encode()]
        for command in (("cluster", "status"), ("cluster", "links"), ("config", "show"), ("status",)):
            shown.append(host.mqnode(*command, "--json").stdout.encode())
        files = [path for folder in (host.data_dir, host.run_dir) for path in folder.rglob("*") if path.is_file()]
        shown += [path.read_bytes() for path in files if path.name != "identity.json"]
        assert not any(secret in each for each in shown)


def test_new_keys_under_load_and_no_link_is_given_up(pair: list[Host]) -> None:
    _, second = pair
    before = [identity(host) for host in pair]
    assert lets_in(second, before[0], before[1]), "the test can tell"
    in_sync(*pair)
    made = second.mqnode("cluster", "token", "create")
    assert made.returncode == 0, made.stderr
    turn = iter(range(10**9))

    def client(version: int) -> Client:
        return pair[next(turn) % 2].client(version)

    ledger = Ledger(client, SEED, rate=40.0, fickle=0.0)
    ledger.start()
    for host in pair:
        ledger.wait_acked(10, ledger.acked())
        rotated = host.mqnode("keys", "rotate", "--json")
        assert rotated.returncode == 0, rotated.stderr + host.log()
        assert json.loads(rotated.stdout)["fingerprint"] != json.loads(rotated.stdout)["before"]
        in_sync(*pair)
    ledger.settle(60)
    after = [identity(host) for host in pair]
    for old, new in zip(before, after, strict=True):
        assert old.node_id == new.node_id
        assert old.public_key != new.public_key
    for host, other in (pair, pair[::-1]):
        assert host.metric(f'mqnode_evictions_total{{peer="{other.name}"}}') == 0
    assert lets_in(second, after[0], after[1])
    assert not lets_in(second, before[0], after[1]), "its old key is worth nothing any more"
    assert not lets_in(second, after[0], before[1])
    assert lets_in(second, before[0], after[1], JOIN_PORT), "who joins is answered with the new key, too"
    assert not lets_in(second, before[0], before[1], JOIN_PORT)


def test_the_new_keys_outlive_a_restart_and_a_host_that_is_away_forbids_others(pair: list[Host]) -> None:
    first, second = pair
    kept = identity(first)
    second.kill_all()
    refused = first.mqnode("keys", "rotate")
    assert refused.returncode == 1
    assert "h2 cannot be told the new key now: nothing was changed" in refused.stderr
    second.start()
    in_sync(*pair)
    assert identity(first) == kept
