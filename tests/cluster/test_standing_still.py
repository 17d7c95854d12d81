"""A host stands still for longer than the others wait for it, its clients go on at another one, and then it goes on, too.

What its processes read then from connections that nobody holds any more was published elsewhere meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.broker import wait_for
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import Network
from tests.mqtt import PUBCOMP, PUBREC, PUBREL, Client

FLOWS = 200


@pytest.fixture
def pair(network: Network) -> Iterator[tuple[Host, Host]]:
    with running_hosts(network, interconnect=MESH) as (first, second):
        join(first, second)
        yield first, second


class Flows:
    """QoS 2 messages of one publisher, by packet id."""

    def __init__(self) -> None:
        self.released: set[int] = set()
        self.open = set(range(1, FLOWS + 1))

    def send(self, client: Client, ids: set[int], dup: bool = False) -> None:
        for id in sorted(ids):
            if id in self.released:
                client.ack(PUBREL, id)
            else:
                client.publish("flow", b"%d" % id, 2, id=id, dup=dup)

    def take(self, client: Client) -> None:
        """One answer."""
        packet = client.receive()
        if packet.kind == PUBREC:
            self.released.add(packet.id)
            client.ack(PUBREL, packet.id)
        else:
            assert packet.kind == PUBCOMP
            self.open.discard(packet.id)


@pytest.mark.parametrize("before", [0, FLOWS // 2], ids=["it reads nothing before", "it has read some"])
def test_flows_that_go_on_at_another_host_come_once(pair: tuple[Host, Host], before: int) -> None:
    first, second = pair
    listener = first.client()
    listener.connect("listener", clean=False, session_expiry=600)
    listener.subscribe(("flow", 2))
    flows = Flows()
    with second.client() as publisher:
        publisher.connect("speaker", clean=False, session_expiry=600)
        flows.send(publisher, set(range(1, before + 1)))
        while len(flows.released) < before // 4:
            flows.take(publisher)
        with second.standing_still():
            flows.send(publisher, flows.open - set(range(1, before + 1)))
            wait_for(lambda: first.metric("mqnode_peers_evicted") == 1, 15, first.log)
            with first.client() as again:
                assert again.connect("speaker", clean=False, session_expiry=600).session_present
                flows.send(again, flows.open, dup=True)
                while flows.open:
                    flows.take(again)
        in_sync(first, second)
        came = Counter(each.payload for each in listener.take_until_quiet(2))
    assert came == {b"%d" % id: 1 for id in range(1, FLOWS + 1)}
