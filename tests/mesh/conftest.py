"""One cluster of three hosts for each module that wants it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mesh.cluster import Cluster
from tests.mesh.host import green_wait


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("mesh"))
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def cluster(running: Cluster) -> Cluster:
    green_wait(running.all_up, what=f"links are not up: {running.host.transport.counters()}")
    running.host.events.clear()
    running.host.frames.clear()
    return running
