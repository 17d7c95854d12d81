"""Runs the installed `mqnode` as people and programs do: with pipes, or on a terminal of a given width."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MQNODE = Path(sys.executable).with_name("mqnode")
TIMEOUT_S = 20.0


class Command:
    """`mqnode` with the configuration `config`."""

    def __init__(self, config: Path, timeout_s: float = TIMEOUT_S) -> None:
        self.config, self.timeout_s = config, timeout_s

    def _environ(self, more: dict[str, str]) -> dict[str, str]:
        environ = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
        return environ | {"MQNODE_CONFIG": str(self.config), "LC_ALL": "C.UTF-8"} | more

    def __call__(self, *arguments: str | bytes, typed: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MQNODE, *arguments], input=typed, capture_output=True, text=True, timeout=self.timeout_s,
            env=self._environ(environ),
        )  # fmt: skip

    @contextmanager
    def watching(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """One that goes on until Ctrl-C, whatever the tests themselves do at that."""
        process = subprocess.Popen(
            [MQNODE, *arguments], env=self._environ({"TERM": "xterm"}), text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **options,
        )  # fmt: skip
        with process:
            try:
                yield process
            finally:
                process.kill()

    def raw(self, *arguments: str, **environ: str) -> bytes:
        """The standard output, byte for byte."""
        return subprocess.run(
            [MQNODE, *arguments], capture_output=True, check=True, timeout=TIMEOUT_S, env=self._environ(environ)
        ).stdout

    def json(self, *arguments: str, code: int = 0, typed: str = "") -> Any:
        names = arguments.index("--") if "--" in arguments else len(arguments)
        done = self(*arguments[:names], "--json", *arguments[names:], typed=typed)
        assert done.returncode == code, done.stderr
        assert done.stdout.isascii()
        assert "\x7f" not in done.stdout
        return json.loads(done.stdout)

    def fails(self, *arguments: str | bytes, code: int, **options: Any) -> str:
        """What it says when it exits with `code`."""
        done = self(*arguments, **options)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr
        return done.stderr

    def on_terminal(
        self, *arguments: str, columns: int = 100, typed: tuple[tuple[str, str], ...] = (), **environ: str
    ) -> tuple[int, str]:
        """Exit code and what is seen; `typed`: for each awaited text, what is typed then."""
        master, slave = pty.openpty()
        try:
            process = subprocess.Popen(
                [MQNODE, *arguments], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                env=self._environ({"TERM": "xterm", "COLUMNS": str(columns)} | environ),
            )  # fmt: skip
            os.close(slave)
            try:
                seen = _converse(master, list(typed))
                return process.wait(TIMEOUT_S), seen.replace("\r\n", "\n")
            finally:
                process.kill()
                process.wait()
        finally:
            os.close(master)


def _converse(master: int, typed: list[tuple[str, str]]) -> str:
    seen, since = b"", 0
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        if typed and typed[0][0].encode() in seen[since:]:
            since = len(seen)
            os.write(master, typed.pop(0)[1].encode() + b"\n")
        ready, _, _ = select.select([master], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"it hangs after {seen!r}"
        try:
            part = os.read(master, 65536)
        except OSError:  # EIO: the other side is closed
            part = b""
        if not part:
            assert not typed, f"never asked for {typed}: {seen!r}"
            return seen.decode()
        seen += part
