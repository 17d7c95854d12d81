"""`--watch`: on a terminal and without one, and while the process that is asked is killed and started anew."""

from __future__ import annotations

import os
import pty
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import Broker, free_port, running, wait_for
from tests.cli.command import TIMEOUT_S, Command

CLEARED = "\x1b[2J\x1b[1;1H"  # and at its top left
AGAIN = "Asked again until it answers, or Ctrl-C.\n"


@pytest.fixture(scope="module")
def host() -> Iterator[Broker]:
    with running(f'[interconnect]\nbind = "127.0.0.1:{free_port()}"\n', workers=1) as broker:
        yield broker


@pytest.mark.parametrize(
    ("arguments", "asked", "screen"),
    [
        (("status",), "admin", "n1 is ready, mqnode "),
        (("cluster", "status"), "interconnect", "Cluster mqnode as n1 knows it"),
    ],
)
def test_screens_follow_each_other_whoever_dies(
    host: Broker, tmp_path: Path, arguments: tuple[str, ...], asked: str, screen: str
) -> None:
    path = tmp_path / "said"
    with (
        path.open("w") as file,
        Command(host.config).watching(*arguments, "--watch", "-i", "0.1", stdout=file, stderr=file) as watched,
    ):
        wait_for(lambda: path.read_text().count(screen) > 1)
        host.signal(asked, signal.SIGKILL)
        wait_for(lambda: screen in path.read_text().partition(AGAIN)[2], 20, path.read_text)
        watched.send_signal(signal.SIGINT)
        assert watched.wait(TIMEOUT_S) == 0
    said = path.read_text()
    assert "does not answer" in said.partition(AGAIN)[0]
    assert said.count(AGAIN) == 1
    assert "\x1b" not in said


def test_a_terminal_is_drawn_anew_and_left_clean(host: Broker) -> None:
    master, slave = pty.openpty()
    seen = ""

    def is_drawn_twice() -> bool:
        nonlocal seen
        seen += terminal.read(65536).decode()
        return seen.count(CLEARED) > 1 and "worker-0" in seen.rpartition(CLEARED)[2]

    with (
        os.fdopen(master, "rb", buffering=0) as terminal,
        Command(host.config).watching("status", "--watch", stdin=slave, stdout=slave, stderr=slave) as watched,
    ):
        os.close(slave)
        wait_for(is_drawn_twice)
        watched.send_signal(signal.SIGINT)
        assert watched.wait(TIMEOUT_S) == 0
        seen += terminal.read(65536).decode()
    assert seen.startswith(CLEARED)
    assert seen.endswith("\n")
    for unwanted in ("Traceback", "Aborted", "\x1b[?"):  # the last one changes a mode of the terminal
        assert unwanted not in seen
