"""Stores that several files of tests have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.stores import A, B, Host, host


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    both = host(tmp_path / "a", A), host(tmp_path / "b", B)
    yield both
    for store, _ in both:
        store.environment.close()
