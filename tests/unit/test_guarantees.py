"""docs/guarantees.md: each promise, acknowledgement and fault names a test. They exist, as do those of docs/invariants.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.test_table import names_in

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "guarantees.md").read_text(encoding="utf-8")
INVARIANTS = (DOCS / "invariants.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[^`]+)::([^`]+)`")
TABLES = {"Promises": 10, "When an acknowledgement leaves": 7, "Faults": 15}


def rows(section: str) -> list[str]:
    body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert body is not None
    return [line for line in body[1].splitlines() if line.startswith("| ")][1:]


def test_the_tests_that_it_names_exist() -> None:
    for path, name in NAMED.findall(TEXT + INVARIANTS):
        assert name in names_in(path), f"{path}::{name}"


@pytest.mark.parametrize("section", TABLES)
def test_each_row_names_a_test(section: str) -> None:
    assert len(rows(section)) >= TABLES[section]
    assert not [row for row in rows(section) if not NAMED.search(row.rpartition("|")[0].rpartition("|")[2])]
