"""The house is kept: lengths of files and functions, no dead imports in comments, import names that are ours alone."""

from __future__ import annotations

import ast
import re
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("node", "mesh", "storage", "bench", "tests")
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if "node_modules" not in path.parts
)
FILE_LINES, FUNCTION_LINES = 400, 50
SCREEN_LINES = 24  # a contract takes ten; a table or a theory of operation one screen
# What is longer, with its length. It may shrink; whoever shortens it lowers the number here.
LONG_FILES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {}


def functions(path: str) -> dict[str, int]:
    """The length of each function of the file, without the decorators."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {
        f"{path}:{each.name}": (each.end_lineno or each.lineno) - each.lineno + 1
        for each in ast.walk(tree)
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def beyond(lengths: dict[str, int], limit: int, allowed: dict[str, int]) -> list[str]:
    return [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > allowed.get(name, limit)]


def test_files_are_short() -> None:
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not beyond(lengths, FILE_LINES, LONG_FILES)
    assert not [name for name in LONG_FILES if lengths.get(name, 0) <= FILE_LINES], "no longer an exception"


def test_functions_are_short() -> None:
    lengths = {name: lines for path in FILES for name, lines in functions(path).items()}
    assert not beyond(lengths, FUNCTION_LINES, LONG_FUNCTIONS)
    assert not [name for name in LONG_FUNCTIONS if lengths.get(name, 0) <= FUNCTION_LINES], "no longer an exception"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_import_is_commented_out(folder: str) -> None:
    dead = re.compile(r"^\s*#\s*(import \w+|from [\w.]+ import )", re.MULTILINE)
    assert not [path for path in FILES if path.startswith(folder) and dead.search((ROOT / path).read_text("utf-8"))]


def test_files_of_the_product_open_with_their_contract() -> None:
    for path in FILES:
        if path.startswith("tests/") or path.endswith("__init__.py"):
            continue
        contract = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
        assert 1 <= len(contract.splitlines()) <= SCREEN_LINES, path


def test_the_import_names_are_ours_alone() -> None:
    distributions = packages_distributions()
    for name in ("node", "mesh", "storage"):
        assert set(distributions.get(name, [])) == {"mqnode"}, name
