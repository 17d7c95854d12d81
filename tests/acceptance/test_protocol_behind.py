"""Row 33 of docs/acceptance.md: tests of tests/protocol with two hosts behind HAProxy, which take turns at connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.balancer import Balancer
from tests.cluster.hosts import MESH, TIMEOUT_S, join, running_hosts
from tests.cluster.network import CLI, Network
from tests.protocol import conftest
from tests.protocol.clients import Clients, Placed
from tests.protocol.test_qos import *  # noqa: F403
from tests.protocol.test_resumption import *  # noqa: F403
from tests.protocol.test_retain import *  # noqa: F403
from tests.protocol.test_shared import *  # noqa: F403

pytestmark = pytest.mark.soak
version, there, topic = conftest.version, conftest.there, conftest.topic  # fixtures

# One host knows at once what a client of another worker does; of another host's it hears that it has gone a moment later, and
# not how much it has not acknowledged yet: there it waits for that client.
del test_members_that_are_away_get_only_what_nobody_else_can  # noqa: F821
del test_a_member_that_acknowledges_nothing_is_passed_over  # noqa: F821


class Turns(Clients):
    """Whoever comes next gets the other host, whichever worker a test asks for."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer, self._opened = balancer, []

    def open(self, version: int = 5, worker: int = 0) -> Placed:
        port, address = self._balancer.port, self._balancer.address
        client = self._balancer.network.inside(CLI, lambda: Placed(port, version, host=address, timeout_s=TIMEOUT_S))
        self._opened.append(client)
        return client


@pytest.fixture(scope="module")
def balancer() -> Iterator[Balancer]:
    with Network("h1", "h2") as network, running_hosts(network, interconnect=MESH) as hosts:
        join(*hosts)
        with Balancer(hosts, by_client_id=False) as balancer:
            yield balancer


@pytest.fixture
def clients(balancer: Balancer) -> Iterator[Clients]:
    opened = Turns(balancer)
    yield opened
    opened.close()
    assert [error for host in balancer.hosts for error in host.errors()] == []
