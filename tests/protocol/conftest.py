"""What the conformance tests share. A module that needs other limits brings a `broker` of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker import Broker, running
from tests.protocol.clients import Clients, new_name


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    with running() as started:
        yield started


@pytest.fixture
def clients(broker: Broker) -> Iterator[Clients]:
    known = len(broker.log())
    opened = Clients(broker)
    yield opened
    opened.close()
    if broker.errors():
        assert "Traceback" not in broker.log()[known:], broker.log()[known:]


@pytest.fixture(params=[3, 4, 5], ids=["3.1", "3.1.1", "5"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[0, 1], ids=["same-worker", "other-worker"])
def there(request: pytest.FixtureRequest) -> int:
    """The worker of the other side; the first client is on worker 0."""
    return int(request.param)


@pytest.fixture
def topic() -> str:
    return new_name("t/")
