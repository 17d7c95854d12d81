"""Commands in all pages: blocks have a test that runs them, and what a sentence names is there, with these options."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import click
import pytest

from node.cli.main import main
from node.config import load

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
# who runs the blocks of the page, whatever they are
RUN_BY = {
    "README.md": "tests/cli/test_getting_started.py",
    "docs/getting-started.md": "tests/cli/test_getting_started.py",
    "docs/configuration.md": "tests/cli/test_configuration_page.py",
    "docs/operating.md": "tests/cli/test_operating_hosts.py",
    "docs/security.md": "tests/unit/test_security_document.py",
}
TO_READ = {"docs/internals.md": {"python"}, "docs/load-balancers.md": {"text"}}  # interfaces, and a zone of DNS
TOML = re.compile(r"(?:^    .*\n|^\n(?=    ))+", re.MULTILINE)


def in_sentences(page: str) -> list[str]:
    """Everything between backquotes, also over the end of a line; not the blocks."""
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)]


def commands(program: str) -> Iterator[tuple[str, list[str]]]:
    """Page and words; `a|b` is two, the name of a value is a number."""
    for page in PAGES:
        for found in in_sentences(page):
            for part in re.split(r" (?:&&|\|\|) |; ", found):
                if part.startswith(f"{program} ") and "…" not in part:
                    words = [re.sub(r"^[A-Z]+$", "1", word).split("|") for word in shlex.split(part)[1:]]
                    yield from ((page, list(each)) for each in product(*words))


@pytest.mark.parametrize("page", PAGES)
def test_somebody_runs_its_blocks(page: str) -> None:
    kinds = set(re.findall(r"^```(\w*)\n.*?^```$", PAGES[page], re.MULTILINE | re.DOTALL))
    if page in RUN_BY:
        assert Path(page).stem in (ROOT / RUN_BY[page]).read_text(encoding="utf-8")
    else:
        assert kinds <= TO_READ.get(page, set())


def test_commands_in_sentences_are_understood() -> None:
    found = list(commands("mqnode"))
    assert len(found) > 80
    assert not [f"{page}: {' '.join(words)}: {why}" for page, words in found if (why := refusal(words))]


def refusal(words: list[str]) -> str:
    """Why `mqnode` would not understand; empty: it does, but for what has to be added."""
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        found = command.get_command(click.Context(command), name)
        if found is None:
            return f"no command {name}"
        command = found
    try:
        if not isinstance(command, click.Group):
            command.make_context("", words)
    except (click.MissingParameter, click.exceptions.Exit):
        return ""
    except click.ClickException as error:
        return error.format_message()
    return ""


def test_targets_of_make_are_there() -> None:
    targets = {word for _, words in commands("make") for word in words if word.isalpha()}
    assert len(targets) > 8
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_extras_of_the_package_are_there() -> None:
    extras = {each for page in PAGES for found in in_sentences(page) for each in re.findall(r"mqnode\[(\w+)\]", found)}
    assert extras
    assert extras <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@pytest.mark.parametrize("page", ["docs/configuration.md", "docs/security.md"])
def test_configurations_in_a_paragraph_are_ones(page: str, tmp_path: Path) -> None:
    found = [block for block in TOML.findall(PAGES[page]) if block.lstrip().startswith("[")]
    assert found
    for block in found:
        (tmp_path / "mqnode.toml").write_text(block)
        assert load(tmp_path / "mqnode.toml", {}).listeners


def test_settings_of_the_kernel_are_there() -> None:
    names = [name for page in PAGES for found in in_sentences(page) for name in re.findall(r"^sysctl ([\w.]+)=", found)]
    assert names
    assert not [name for name in names if not Path("/proc/sys", *name.split(".")).exists()]
