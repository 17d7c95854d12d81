"""docs/security.md: its commands and configurations, one after the other, against a real host."""

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
BLOCK = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
PREAMBLE = """
chown() { :; }  # there is no user mqnode here
refuse() { if "$@"; then echo "not refused: $*" >&2; return 1; fi; }
systemctl() {
  if [ -f PID ]; then kill "$(cat PID)"; while kill -0 "$(cat PID)" 2>&-; do sleep 0.05; done; fi
  mqnode start >>LOG 2>&1 & echo $! >PID
  until mqnode check ready >&-; do sleep 0.05; done
}
"""


class Reader:
    """Who follows the page, in a folder instead of /etc and /var."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mqnode-", dir="/tmp"))
        self.etc = self.folder / "etc"
        self.etc.mkdir()
        (self.folder / "var").mkdir(mode=0o700)  # as systemd/mqnode.tmpfiles does
        self.places = {
            "/etc/mqnode": str(self.etc), "/var/lib/mqnode": f"{self.folder}/var", "0.0.0.0": "127.0.0.1",
            "1883": str(free_port()), "8883": str(free_port()), "8884": str(free_port()),
            "PID": f"{self.folder}/pid", "LOG": f"{self.folder}/log",
        }  # fmt: skip
        self.configuration = (ROOT / "systemd/mqnode.toml").read_text()
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MQNODE_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MQNODE_CONFIG": str(self.etc / "mqnode.toml"),
            "MQNODE_ADMIN__BIND": f"127.0.0.1:{free_port()}",
            "MQNODE_NODE__WORKERS": "1",
        }

    def placed(self, text: str) -> str:
        return re.sub("|".join(map(re.escape, self.places)), lambda found: self.places[found[0]], text)

    def configure(self, block: str) -> None:
        if block.startswith("[auth]"):
            self.configuration = self.configuration.replace("[auth]\n", block)
        else:
            self.configuration += block
        (self.etc / "mqnode.toml").write_text(self.placed(self.configuration))

    def rule(self, block: str) -> None:
        (self.etc / "acl").write_text(block)

    def run(self, block: str) -> None:
        script = self.placed(PREAMBLE) + self.placed(re.sub(r"(?m)^! ", "refuse ", block))
        output = self.folder / "output"
        with output.open("w") as file:  # not a pipe: the host stays behind with it
            command = ["bash", "-e", "-o", "pipefail", "-c", script]
            result = subprocess.run(command, cwd=self.folder, env=self.environ, stdout=file, stderr=file, timeout=60)
        assert result.returncode == 0, f"{block}\n{output.read_text()}"

    def stop(self) -> None:
        with suppress(FileNotFoundError, ProcessLookupError):
            pid = int((self.folder / "pid").read_text())
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), 20)
        shutil.rmtree(self.folder)


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    try:
        yield reader
    finally:
        reader.stop()


def test_the_page_does_what_it_says(reader: Reader) -> None:
    do = {"sh": reader.run, "toml": reader.configure, "acl": reader.rule}
    blocks = BLOCK.findall((ROOT / "docs/security.md").read_text())
    assert len(blocks) > 10
    for kind, block in blocks:
        do[kind](block)
    log = (reader.folder / "log").read_text()
    assert "Traceback" not in log
    assert '"level":"error"' not in log
