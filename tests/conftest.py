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
    """The long simulation first: it takes, on all cores, what the others leave to it."""
    items.sort(key=lambda item: item.path.name != "test_simulation.py")


@pytest.fixture
def folder() -> Iterator[Path]:
    """As tmp_path, but with a short name: a host has unix sockets in it."""
    made = Path(tempfile.mkdtemp(prefix="mqnode-", dir="/tmp"))
    yield made
    shutil.rmtree(made)
