"""What holds for all tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("mqnode", deadline=None)  # a busy machine is no fault
settings.load_profile("mqnode")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The simulation last: it uses all cores, also those of the processes that `make test` has no tests left for."""
    items.sort(key=lambda item: "simulation" in item.path.parts)


@pytest.fixture
def folder() -> Iterator[Path]:
    """As tmp_path, but with a short name: a host has unix sockets in it."""
    made = Path(tempfile.mkdtemp(prefix="mqnode-", dir="/tmp"))
    yield made
    shutil.rmtree(made)
