"""Three hosts: what two do when the third dies, and when two do not see each other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.broker import wait_for
from tests.cluster.hosts import MESH, Host, admit, in_sync, running_hosts
from tests.cluster.network import INTERCONNECT, Network
from tests.cluster.test_digest import digest
from tests.mqtt import Client

REST_S = 0.25  # node/keeper/peer_commits.py ASK_MS
GRACE_S = 30  # node/sessions/elsewhere.py WILL_GRACE_MS


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    with Network("h1", "h2", "h3") as network, running_hosts(network, interconnect=MESH) as hosts:
        for other in hosts[1:]:
            admit(hosts[0], other)
        in_sync(*hosts)
        yield hosts


def heard(client: Client, seconds: float) -> Counter[bytes]:
    """The payloads of all messages that come within that time."""
    found: Counter[bytes] = Counter()
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            found[client.take(left).payload] += 1
        except TimeoutError:
            break
    return found


def test_two_that_do_not_see_each_other_get_all_by_the_third(hosts: list[Host]) -> None:
    """As snapshots of its whole store, with a rest behind each; who publishes at the third waits for no more than that."""
    first, second, third = hosts
    stored = 32 * 65536
    with second.client() as client:
        client.connect("far", clean=False, session_expiry=600)
        client.subscribe(("far/#", 1))
    with first.client() as near, third.client() as between:
        for client in (near, between):
            client.connect()
        for number in range(32):
            near.publish_all(f"kept/{number}", bytes(65536), 1, retain=True)
        first.network.cut(first.name, second.name)
        wait_for(lambda: all(host.metric("mqnode_peers_evicted") == 1 for host in (first, second)), 15, first.log)
        with first.network.capture(second.name, INTERCONNECT) as capture:
            began, slowest_s = time.monotonic(), 0.0
            for number in range(20):
                for name, client in (("near", near), ("between", between)):
                    since = time.monotonic()
                    assert client.publish_all("far/x", f"{name}{number}".encode(), 1).reason == 0
                    slowest_s = max(slowest_s, time.monotonic() - since)
            assert slowest_s < 5, "they waited for a snapshot"
            snapshots_max = (time.monotonic() - began) / REST_S + 2
            assert sum(capture.read().bytes.values()) < 1.2 * stored * snapshots_max
    first.network.heal()
    in_sync(*hosts)
    with second.client() as client:
        assert client.connect("far", clean=False, session_expiry=600).session_present
        found = [client.take().payload for _ in range(40)]
    assert sorted(found) == sorted(f"{name}{number}".encode() for name in ("near", "between") for number in range(20))
    wait_for(lambda: digest(first)["equal"], 20, lambda: first.log() + second.log())


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_the_wills_of_a_dead_host_fire_once(hosts: list[Host]) -> None:
    """Its clients have 30 s to come back; a delay that ends later counts from the death, not from the end of these."""
    first, second, third = hosts
    delay_s = GRACE_S + 4
    listeners = [host.client() for host in (first, second)]
    for client in listeners:
        client.connect(keep_alive=0)
        client.subscribe(("wills/#", 1))
    mortals = [third.client() for _ in range(12)]
    for number, client in enumerate(mortals):
        delayed = {"session_expiry": 600, "will_properties": {"will_delay": delay_s}} if number >= 8 else {}
        name = b"late%d" % number if delayed else b"soon%d" % number
        client.connect(f"mortal{number}", will=("wills/x", name, 1, False), **delayed)
    back = third.client()
    back.connect("back", clean=False, session_expiry=600, will=("wills/x", b"back", 1, False))
    third.kill_all()
    died = time.monotonic()
    wait_for(lambda: all(host.metric("mqnode_peers_evicted") == 1 for host in (first, second)), 15, first.log)
    with second.client() as returned:
        returned.connect("back", clean=False, session_expiry=600)
        soon = {b"soon%d" % number: 1 for number in range(8)}
        got = [heard(listeners[0], died + GRACE_S + 3 - time.monotonic()), heard(listeners[1], 1)]
        assert got == [soon, soon]
        late = {b"late%d" % number: 1 for number in range(8, 12)}
        got = [heard(listeners[0], died + delay_s + 8 - time.monotonic()), heard(listeners[1], 1)]
        assert got == [late, late]
    for client in (*listeners, *mortals, back):
        client.close()
    third.start()
    in_sync(*hosts)
