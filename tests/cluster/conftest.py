"""A network of two hosts for each module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.network import Network


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network("h1", "h2") as network:
        yield network
