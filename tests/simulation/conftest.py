"""Hosts for schedules by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.three import Three


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    hosts = Three(tmp_path)
    yield hosts
    for host in hosts.hosts:
        host.stop("at the end")
