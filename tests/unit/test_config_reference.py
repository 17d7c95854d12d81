"""deploy/mqnode.reference.toml and docs/configuration.md tell every key, its range and its default as they really are.

`python -m tests.unit.test_config_reference` copies the reference into docs/configuration.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from msgspec import Struct, structs

from node.config import Config, ConfigError, load, read
from node.config.describe import describe
from node.config.places import Key
from node.config.show import values
from node.counters import COUNTERS
from node.preflight import preflight

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "deploy/mqnode.reference.toml"
DOCUMENT = ROOT / "docs/configuration.md"
_KEY = re.compile(r"#?([a-z0-9_]+) = (.+)")


def declared(kind: type[Struct] = Config, table: str = "") -> dict[tuple[str, str], object]:
    """(section, key) -> its type."""
    found: dict[tuple[str, str], object] = {}
    for field in structs.fields(kind):
        inner = get_args(field.type)[0] if get_origin(field.type) is tuple else field.type
        if isinstance(inner, type) and issubclass(inner, Struct):
            found |= declared(inner, f"{table}.{field.name}".removeprefix("."))
        else:
            found[table, field.name] = field.type
    return found


def documented() -> list[tuple[tuple[str, str], list[str], str]]:
    """((section, key), comment lines above it, line) of each key; not the second listener, which only has what differs."""
    found = []
    section = ""
    comments: list[str] = []
    seen: list[str] = []
    for line in REFERENCE.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            seen.append(section)
        elif (key := _KEY.fullmatch(line)) and seen.count(section) == 1:
            found.append(((section, key[1]), comments, line))
        comments = [*comments, line] if line.startswith("# ") else []
    return found


def test_it_has_every_key_once_and_in_order() -> None:
    assert [name for name, _, _ in documented()] == list(declared())


@pytest.mark.parametrize(("name", "comments"), [(name, comments) for name, comments, _ in documented()])
def test_each_key_says_what_it_takes(name: tuple[str, str], comments: list[str]) -> None:
    assert comments, f"no comment above {name}"
    assert comments[-1] == f"# {describe(declared()[name])}"
    assert len(comments) > 1 or name == ("listeners", "key")  # that one shares the certificate's text


def test_its_values_are_the_defaults(tmp_path: Path) -> None:
    assert load(REFERENCE, {}) == load(None, {})
    unset = {key[-1] for key, value in values(load(None, {})).items() if value is None}
    assert {name[1] for name, _, line in documented() if line.startswith("#")} == unset
    everything = tmp_path / "mqnode.toml"  # and what is commented out is right, too
    everything.write_text(re.sub(r"(?m)^#(?=[a-z_]+ = )", "", REFERENCE.read_text()))
    assert load(everything, {}).auth.allow_anonymous is False


SCRAPS = [
    "",
    "\n",
    "=",
    "[",
    "]",
    "[[",
    '"',
    '"""',
    "'",
    "#",
    "{",
    "}",
    ",",
    ".",
    "-1",
    "nan",
    "true",
    "[node]\n",
    "[[sys]]\n",
    "\\",
    "\0",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=strategies.data())
def test_whatever_stands_there_gives_a_configuration_or_errors(tmp_path: Path, data: strategies.DataObject) -> None:
    text = re.sub(r"(?m)^# .*\n|^\n", "", REFERENCE.read_text())
    for _ in range(data.draw(strategies.integers(1, 3))):
        start = data.draw(strategies.integers(0, len(text)))
        end = start + data.draw(strategies.integers(0, 30))
        text = text[:start] + data.draw(strategies.sampled_from(SCRAPS) | strategies.text(max_size=4)) + text[end:]
    path = tmp_path / "mqnode.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    told = [f"{path}:"]
    try:
        loaded = read(path, {})
        for key in values(loaded.config):
            loaded.places.origin(key)
    except ConfigError as error:
        told = str(error).split("\n")
    assert all(line.startswith(f"{path}:") for line in told)


def test_every_key_has_a_reader() -> None:
    """A key that nothing reads would be a promise that nobody keeps."""
    listed = subprocess.run(["git", "ls-files", "node", "storage", "mesh"], cwd=ROOT, capture_output=True, text=True)
    paths = [path for path in listed.stdout.split() if path.endswith((".py", ".pyx", ".pxi"))]
    readers = [path for path in paths if not path.startswith("node/config/") or path.endswith("config/__init__.py")]
    source = "\n".join((ROOT / path).read_text() for path in readers if (ROOT / path).exists())
    keys: set[Key] = set(declared())
    assert not [key for key in keys if not re.search(rf"\.{key[-1]}\b", source)]


def test_the_configuration_for_systemd(tmp_path: Path) -> None:
    """It starts as it is; with its examples, once what they name is there."""
    shipped = ROOT / "systemd/mqnode.toml"
    loaded, warnings = preflight(shipped)
    assert warnings == []
    assert loaded.config.node.data_dir == "/var/lib/mqnode"  # StateDirectory of the unit
    everything = tmp_path / "mqnode.toml"
    everything.write_text(re.sub(r"(?m)^#(?=[a-z_]+ = |\[)", "", shipped.read_text()))
    config = load(everything, {})
    assert config.auth.password_file
    assert [each.type for each in config.listeners] == ["tcp", "tcp", "tls"]


# -- docs/configuration.md ----------------------------------------------------------------------------------------------


def with_reference(document: str) -> str:
    """The document with each `toml` block that begins with a section's header replaced by that section of the reference."""
    sections: dict[str, str] = {}
    for part in re.split(r"\n(?=(?:# [^\n]*\n)*\[)", REFERENCE.read_text()):
        if header := re.search(r"(?m)^\[+([a-z.]+)\]+$", part):
            sections[header[1]] = sections.get(header[1], "") + part[header.start() :].rstrip("\n") + "\n\n"
    for section, text in sections.items():
        block = re.compile(rf"(?ms)^```toml\n\[+{re.escape(section)}\]+\n.*?^```$")
        found = block.search(document)
        assert found, f"docs/configuration.md has no block for {section}"
        document = f"{document[: found.start()]}```toml\n{text.rstrip()}\n```{document[found.end() :]}"
    return document


def test_the_document_is_current() -> None:
    document = DOCUMENT.read_text()
    assert document == with_reference(document), f"run: {sys.executable} -m tests.unit.test_config_reference"


# -- docs/limits.md -----------------------------------------------------------------------------------------------------


def test_every_limit_is_explained() -> None:
    text = (ROOT / "docs/limits.md").read_text()
    rows = {
        (section, key): default for section, key, default in re.findall(r"(?m)^\| `(\w+)\.(\w+)` \| (\S+) \|", text)
    }
    assert {name for name in declared() if name[0] == "limits"} <= set(rows)
    defaults = {(str(key[0]), str(key[-1])): value for key, value in values(load(None, {})).items()}
    assert {name: str(defaults[name]) for name in rows} == rows
    reasons = {name.partition("_")[2] for name in COUNTERS if name.startswith(("dropped_", "refused_"))}
    assert [reason for reason in reasons if f"`{reason}`" not in text] == []


if __name__ == "__main__":
    DOCUMENT.write_text(with_reference(DOCUMENT.read_text()))
