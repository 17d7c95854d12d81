"""README.md and docs/getting-started.md, followed by a reader: each command runs as it stands there, and shows what it should."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.broker import free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOREVER = re.compile(r"(make run|mqnode start|mosquitto_sub (?!.*-[CE]\b).*)\n")
TIMEOUT_S = 60
# a shell that goes on where the one before stopped; other ports than those of the page
SHELL = """
mosquitto_sub() { command mosquitto_sub -p "$PORT" "$@"; }
mosquitto_pub() { command mosquitto_pub -p "$PORT" "$@"; }
refuse() { if "$@"; then echo "not refused: $*" >&2; return 1; fi; }
[ ! -e "$HOME/.state" ] || { source "$HOME/.state"; cd "$OLDPWD"; }
%s
"""
STATE = 'cd /; export -p > "$HOME/.state"'  # OLDPWD included


class Reader:
    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mqnode-", dir="/tmp"))
        self.port, self.ws_port = free_port(), free_port()
        self.environ = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "PORT": str(self.port), "LC_ALL": "C.UTF-8",
            "NODE_PATH": str(ROOT / "tests/interop/node_modules"),
            "MQNODE_ADMIN__BIND": f"127.0.0.1:{free_port()}", "MQNODE_NODE__DATA_DIR": str(self.home / "data"),
            "MQNODE_LISTENERS__0__BIND": f"127.0.0.1:{self.port}",
        }  # fmt: skip
        self.browser = {"MQNODE_LISTENERS__1__BIND": f"127.0.0.1:{self.ws_port}"}  # of deploy/mqnode.toml
        self.running: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        self.said = ""

    def follow(self, page: Path) -> None:
        do = {
            "sh": self.run, "text": self.see, "toml": self.write("mqnode.toml"), "acl": self.write("acl"),
            "python": self.program(sys.executable, "-"), "js": self.program("node", "-"),
        }  # fmt: skip
        for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            do[kind](block)

    def shell(self, block: str) -> list[str]:
        return ["bash", "-euo", "pipefail", "-c", SHELL % re.sub(r"(?m)^! ", "refuse ", block)]

    def run(self, block: str) -> None:
        if FOREVER.fullmatch(block):
            self.leave_running(block)
        else:
            block = re.sub(r"(?m)^make (?!run)", "make -n ", block)  # this is `make test`; of the demo see below
            done = subprocess.run(
                self.shell(block + STATE), cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}{self.heard()}"
            self.said = done.stdout

    def leave_running(self, block: str) -> None:
        is_host = "mqnode" in block or "make" in block
        if is_host:
            self.interrupt()
        output = self.home / f"output-{len(self.running)}"
        environ = self.environ | (self.browser if "make" in block else {})
        with output.open("wb") as file:
            started = subprocess.Popen(
                self.shell(block), cwd=ROOT, env=environ, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self.running.append((block, started, output))
        awaited = "host_ready" if is_host else " filters=greetings/# "

        def is_there() -> bool:
            assert started.poll() is None, self.heard()
            return awaited in (output.read_text() if is_host else self.heard()).replace("\n", " \n")

        wait_for(is_there, TIMEOUT_S, self.heard)

    def see(self, block: str) -> None:
        if "┏" in block:  # of the demo, other numbers each time
            return
        wait_for(lambda: block in self.said or block in self.heard(), TIMEOUT_S, lambda: self.said + self.heard())

    def write(self, name: str):  # type: ignore[no-untyped-def]
        return lambda block: (self.home / "broker" / name).write_text(block)

    def program(self, *command: str):  # type: ignore[no-untyped-def]
        def run(block: str) -> None:
            placed = block.replace("1883", str(self.port)).replace("8080", str(self.ws_port))
            done = subprocess.run(
                command, input=placed, env=self.environ, capture_output=True, text=True, timeout=TIMEOUT_S
            )
            assert done.returncode == 0, done.stderr
            self.said = done.stdout

        return run

    def heard(self) -> str:
        return "".join(output.read_text() for _, _, output in self.running)

    def interrupt(self) -> None:
        """Ctrl-C, in each terminal."""
        for block, process, _ in self.running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError(f"Ctrl-C does not stop: {block}") from None

    def close(self) -> None:
        try:
            self.interrupt()
        finally:
            shutil.rmtree(self.home)


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    try:
        yield reader
    finally:
        reader.close()


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_the_page_does_what_it_says(reader: Reader, page: str) -> None:
    reader.follow(ROOT / page)
    assert "Traceback" not in reader.heard()
    assert " error " not in reader.heard()


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_the_demo_of_the_page_loses_nothing() -> None:
    done = subprocess.run(
        ["make", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "┃ in HAProxy" in done.stdout
    assert "the ledger is at zero" in done.stdout


def test_readme_leads_to_every_page() -> None:
    links = set(re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert not [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert not {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} - links


def test_readme_promises_no_more_than_was_measured() -> None:
    measured = {}
    for line in (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 4 and cells[1] == "CPU-s per million":
            measured[cells[0]] = (
                float(cells[3].replace(",", "")) / float(cells[2].replace(",", "")) if cells[3] else 0.0
            )
    claims = re.findall(r"^\| ([^|]+?) +\| ([\d.]+) × +\|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(claims) > 5
    assert not [(name, claim, measured[name]) for name, claim in claims if float(claim) > measured[name]]
