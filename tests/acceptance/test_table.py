"""docs/acceptance.md names every row once, and only tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = 117
WITHOUT_A_TEST = "not yet: "
FIGURES = "[benchmarks](benchmarks.md): "  # where a promise is one of figures
# what one host can show
ON_ONE_HOST = {2, 3, 6, 7, 13, 16, 18, 21, 42, 44, 46, 56, 65, 66, 68, 72, 75, 100, 110, 112, 115, 117}
# what is promised of several hosts, although their workers show much of it
ON_HOSTS = {1, 20, 22, 23, 25, 27, 30, 45, 48, 50, 51, 52, 53, 54, 59, 63, 73, 79}
HOSTS = ("tests/cluster/", "tests/acceptance/test_hosts_rows.py")  # where tests run several


def table() -> dict[int, tuple[str, str]]:
    """Number to promise and what shows it."""
    lines = (ROOT / "docs/acceptance.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d+ \|", line)]
    assert all(len(each) == 3 for each in cells)
    assert [int(number) for number, _, _ in cells] == list(range(1, ROWS + 1))
    return {int(number): (promise, shown) for number, promise, shown in cells}


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_named_test_exists() -> None:
    for number, (promise, shown) in table().items():
        named = re.findall(r"`([^`]+)::([^`]+)`", shown)
        assert promise, number
        assert named or shown.startswith((WITHOUT_A_TEST, FIGURES)), number
        for path, name in named:
            assert name in names_in(path), f"row {number}: {path}::{name}"


def test_what_one_host_can_show_is_shown() -> None:
    assert not {number for number in ON_ONE_HOST if table()[number][1].startswith(WITHOUT_A_TEST)}


def test_what_is_promised_of_hosts_is_shown_on_hosts() -> None:
    assert not {number for number in ON_HOSTS if not any(f"`{place}" in table()[number][1] for place in HOSTS)}


def test_each_test_of_this_folder_is_named() -> None:
    shown = " ".join(shown for _, shown in table().values())
    for path in (
        "tests/acceptance/test_rows.py",
        "tests/acceptance/test_hosts_rows.py",
        "tests/acceptance/test_balancer.py",
    ):
        assert {name for name in names_in(path) if f"`{path}::{name}`" not in shown} == set()
