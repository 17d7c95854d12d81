"""What holds of every command: help with examples, exit codes, errors with a way out, and that a call stays quick."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest

from node.cli.main import main
from tests.broker import Broker, free_port
from tests.cli.command import MQNODE, TIMEOUT_S, Command

# These would take longer to import than a command may run.
HEAVY = {"gevent", "rich", "asyncio", "falcon", "structlog", "lmdb", "zmq", "prometheus_client", "websockets", "argon2"}


def leaves(command: click.Command, *names: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from leaves(found, *names, name)
    else:
        yield " ".join(names), command


COMMANDS = dict(leaves(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name: str) -> None:
    text = COMMANDS[name].help or ""
    assert "Example" in text
    example = f"mqnode {name}"
    assert example in text


@pytest.mark.parametrize("name", COMMANDS)
def test_options_that_all_have(name: str) -> None:
    options = {option for each in COMMANDS[name].params for option in each.opts}
    if name not in ("completion", "backup verify") and not name.startswith("bench "):  # these need no host of ours
        assert "--config" in options
    if name not in ("completion", "start"):
        assert "--json" in options


def test_help(mqnode: Command) -> None:
    text = mqnode("--help").stdout
    assert {"status", "check", "clients", "sessions", "retained", "users", "acl"} <= set(text.split())
    text = mqnode("sessions", "list", "--help").stdout
    assert "    mqnode sessions list --match 'sensor-*'\n" in text
    assert "MQNODE_CONFIG" in text


@pytest.mark.parametrize("arguments", [("status",), ("check", "ready"), ("sessions", "list"), ("--help",)])
def test_a_call_imports_nothing_heavy(broker: Broker, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", MQNODE, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S,
        env={"MQNODE_CONFIG": str(broker.config)}, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "node.cli.main" in imported
    assert not {name.partition(".")[0] for name in imported} & HEAVY


# -- yes, no, not understood ------------------------------------------------------------------------------------------


@contextmanager
def answering(status: int, answer: object) -> Iterator[int]:
    """An admin API that always says that; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def command_for(folder: Path, port: int) -> Command:
    path = folder / "mqnode.toml"
    path.write_text(f'[node]\ndata_dir = "{folder}"\n[admin]\nbind = "127.0.0.1:{port}"\n')
    return Command(path)


def test_check_says_yes(mqnode: Command) -> None:
    assert mqnode.json("check", "alive") == {"live": True}
    assert mqnode.json("check", "ready") == {"ready": True, "reasons": []}
    assert mqnode("check", "ready").stdout == "ready: yes\n"


def test_check_says_no(tmp_path: Path) -> None:
    reasons = ["the keeper is not ready", "worker-0 has no keeper\x1b[31m"]
    with answering(503, {"ready": False, "reasons": reasons}) as port:
        mqnode = command_for(tmp_path, port)
        assert mqnode.json("check", "ready", code=1)["reasons"] == reasons
        done = mqnode("check", "ready")
    assert done.returncode == 1
    assert (
        done.stdout
        == "ready: no (the keeper is not ready; worker-0 has no keeper\\x1b[31m). Look at it with: mqnode status\n"
    )


def test_check_when_nobody_answers(tmp_path: Path) -> None:
    mqnode = command_for(tmp_path, free_port())
    for question in ("alive", "ready"):
        text = mqnode.fails("check", question, code=1)
        assert "does not answer" in text
        assert "mqnode start --config" in text


def test_answer_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "admin.token").write_text("x")
    with answering(200, "hello") as port:
        assert "does not speak" in command_for(tmp_path, port).fails("status", code=1)


def test_usage(mqnode: Command, tmp_path: Path) -> None:
    assert "No such command" in mqnode.fails("nonsense", code=2)
    assert "Did you mean: mqnode status?" in mqnode.fails("statsu", code=2)
    assert "Did you mean: mqnode sessions list?" in mqnode.fails("sessions", "lst", code=2)
    assert "Did you mean: mqnode leave?" in mqnode.fails("cluster", "leave", code=2)
    assert "No such option" in mqnode.fails("status", "--nonsense", code=2)
    assert "Missing argument" in mqnode.fails("sessions", "show", code=2)
    assert "holds no wildcards" in mqnode.fails("topics", "match", "a/#", code=2)
    assert "4294967296" in mqnode.fails("sessions", "list", "--limit", "-4294967296", code=2)


def test_configuration_that_is_not_there(tmp_path: Path) -> None:
    text = Command(tmp_path / "none.toml").fails("check", "ready", code=2)
    assert "none.toml" in text
    assert "--config FILE" in text


def test_configuration_by_option(mqnode: Command, broker: Broker, tmp_path: Path) -> None:
    done = Command(tmp_path / "none.toml")("check", "ready", "--config", str(broker.config))
    assert done.returncode == 0


def test_token_that_is_not_there(broker: Broker, tmp_path: Path) -> None:
    mqnode = command_for(tmp_path, broker.admin_port)
    text = mqnode.fails("status", code=1)
    assert "admin.token" in text
    assert "sudo -u mqnode" in text
    (tmp_path / "admin.token").write_text("wrong")
    assert "does not take the token" in mqnode.fails("status", code=1)
    mqnode.config.write_text(mqnode.config.read_text().replace(str(tmp_path), "elsewhere"))
    text = mqnode.fails("status", code=1)
    assert str(Path("elsewhere/admin.token").absolute()) in text
    assert "in the folder where it was started" in text
    assert mqnode("check", "ready").returncode == 0, "that needs no token"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(mqnode: Command, shell: str) -> None:
    assert f"_MQNODE_COMPLETE={shell}_complete" in mqnode("completion", shell).stdout


def test_completion(mqnode: Command) -> None:
    def complete(words: str) -> list[str]:
        count = str(len(words.split(" ")) - 1)
        done = mqnode(_MQNODE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=count)
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert complete("mqnode se") == ["sessions"]
    assert complete("mqnode sessions ") == ["delete", "list", "show"]
    assert "--json" in complete("mqnode sessions list --")
