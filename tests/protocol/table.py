"""docs/conformance.md: each normative statement of MQTT and the tests that show it, by the `statement` marks of their sources.

`python -m tests.protocol.table` writes it and takes off the list of missing ones what has a test by now.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATEMENTS = Path(__file__).with_name("statements.toml")
PAGE = ROOT / "docs" / "conformance.md"
HEAD = """# Conformance

The normative statements of MQTT 5.0 and MQTT 3.1.1, in our words, and the tests in `tests/` that show that the broker keeps them.
"client": the broker cannot break it. A test marked † is known to fail; it says why. Written by `python -m tests.protocol.table`.
"""
SECTION = "\n## MQTT {version}\n\n| Statement | What it asks | Tests |\n|---|---|---|\n"
_MISSING = re.compile(r"^missing = \[\n.*?^\]\n", re.MULTILINE | re.DOTALL)


def load() -> tuple[dict[str, str], set[str]]:
    """Statement id as the marks write it ("3.1.1:" in front of that version's) -> paraphrase; the ids without a test."""
    found = tomllib.loads(STATEMENTS.read_text(encoding="utf-8"))
    statements = dict(found["5.0"]) | {f"3.1.1:{id}": words for id, words in found["3.1.1"].items()}
    return statements, set(found["missing"])


def of_server(statements: dict[str, str]) -> set[str]:
    """Those that need a test of their own."""
    return {id for id, words in statements.items() if not words.startswith(("client: ", "= "))}


def marks() -> dict[str, list[str]]:
    """Statement id -> names of the tests that are marked with it."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                calls = [
                    each for mark in function.decorator_list for each in ast.walk(mark) if isinstance(each, ast.Call)
                ]
                failing = any(ast.unparse(call.func) == "pytest.mark.xfail" for call in calls)
                name = (
                    f"{path.stem.removeprefix('test_')}: {function.name.removeprefix('test_')}{'†' if failing else ''}"
                )
                for call in calls:
                    if ast.unparse(call.func) == "pytest.mark.statement":
                        for id in map(ast.literal_eval, call.args):
                            found.setdefault(id, []).append(name)
    return found


def untested(statements: dict[str, str], tests: dict[str, list[str]]) -> set[str]:
    """Statements of the server that no test shows; one that is known to fail shows nothing."""
    return {id for id in of_server(statements) if all(name.endswith("†") for name in tests.get(id, []))}


def page(statements: dict[str, str], tests: dict[str, list[str]]) -> str:
    rows: dict[str, list[str]] = {"5.0": [], "3.1.1": []}
    for id, words in statements.items():
        version, _, number = id.rpartition(":")
        names = tests.get(id, [])
        if words.startswith("= "):
            names = names + [name for name in tests.get(words[2:], []) if name not in names]
            words = f"as {words[2:]}: {statements[words[2:]]}"
        rows[version or "5.0"].append(f"| {number} | {words} | {'<br>'.join(names)} |\n")
    return HEAD + "".join(SECTION.format(version=version) + "".join(lines) for version, lines in rows.items())


def main() -> None:
    statements, missing = load()
    tests = marks()
    left = [id for id in statements if id in missing & untested(statements, tests)]
    lines = "".join(f'    "{id}",\n' for id in left)
    STATEMENTS.write_text(_MISSING.sub(f"missing = [\n{lines}]\n", STATEMENTS.read_text("utf-8"), 1), encoding="utf-8")
    PAGE.write_text(page(statements, tests), encoding="utf-8")


if __name__ == "__main__":
    main()
