"""`mqnode start`: checks what would keep the host from starting, writes supervisord's configuration, becomes it.

The lock on data_dir is held by supervisord for as long as it lives, and so is the life port (node/life_port.py). Descriptors after
exec: 3 the lock and 4 the port, which the children do not get; 8 and 9 our stdout and stderr, which they do
(deploy/supervisord.conf). Never returns but with StartError, whose text tells the operator cause, effect and way out.

The processes read a copy of the configuration as it was at the start, run_dir/mqnode.toml: one that is started anew gets what
its siblings have, whatever stands in the edited file by then.
"""

from __future__ import annotations

import fcntl
import os
import resource
import shlex
import sys
import time
from pathlib import Path
from string import Template
from typing import NoReturn

from node import log
from node.config import Config, ConfigError, load, run_dir, worker_count
from node.config.show import to_toml
from node.life_port import LIFE_FD, LISTENS, open_life_port
from node.listeners.filters import ListenError
from node.listeners.sockets import check_free, filter_factory
from node.process import CONFIG_FILE, SUPERVISOR_PID

LOCK_FD, STDOUT_FD, STDERR_FD = 3, 8, 9
_RUN_DIR_MAX_BYTES = 80  # + "/supervisor.sock.12345678" must fit a unix socket's path, 107 bytes
_ADDRESS_WAIT_S = 3.0  # workers of a supervisord that was killed just now may still be on their way out
_LAUNCH = """/bin/sh -c 'exec "$@" >&8 2>&9 8>&- 9>&-' sh"""


class StartError(Exception):
    """The host cannot be started."""


def run(config_path: str | Path, config: Config) -> NoReturn:
    """Become the supervisor of this host's processes, in the foreground. Raises StartError."""
    os.umask(0o077)  # for all processes; supervisord sets its own only when it goes into the background
    data, run = Path(config.node.data_dir).resolve(), run_dir(config).resolve()
    _make_directory(data, "data_dir")
    lock = _lock(data)
    _make_directory(run, "run_dir")
    _check_listeners(config)
    _clean(run)
    written = _write_configuration(run, config)
    _raise_descriptor_limit()
    sys.stdout.flush()
    sys.stderr.flush()
    if lock != LOCK_FD:
        os.dup2(lock, LOCK_FD)
    os.set_inheritable(LOCK_FD, True)
    _hold_life_port(config)
    os.dup2(1, STDOUT_FD)
    os.dup2(2, STDERR_FD)
    os.environ[SUPERVISOR_PID] = str(os.getpid())  # exec keeps the pid
    os.environ[CONFIG_FILE] = os.fspath(Path(config_path).resolve())
    # -P: a folder called `node` in the current directory must not be taken for ours
    os.execv(sys.executable, [sys.executable, "-P", "-m", "node.supervisord", "-c", os.fspath(written)])


def _make_directory(path: Path, key: str) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(
            f"{path}: cannot be made: {error.strerror}. mqnode keeps its state there and does not start. "
            f"Set node.{key} to a directory that this user may write to, or `install -d -m 700 -o USER {path}`."
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise StartError(
            f"{path}: this user may not write there; mqnode keeps its state there and does not start. "
            f"Run mqnode as the owner of the directory, or `chown` it."
        )


def _lock(data: Path) -> int:
    descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        pid = os.read(descriptor, 32).decode().strip() or "?"
        os.close(descriptor)
        raise StartError(
            f"{data}: another mqnode (pid {pid}) runs on this data_dir; a second one would write to the same store "
            f"and does not start. Stop the other one (`kill {pid}`) or set another node.data_dir."
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


def _check_listeners(config: Config) -> None:
    """Refuse here, in one line, what would make each worker die at its start."""
    try:
        for listener in config.listeners:
            filter_factory(listener, config.limits)
    except ListenError as error:
        raise StartError(str(error)) from error
    deadline = time.monotonic() + _ADDRESS_WAIT_S
    admin = [each for each in (config.admin.bind, config.admin.health_bind) if each]
    for bind in [*(each.bind for each in config.listeners if each.type != "unix"), *admin]:
        while True:
            try:
                check_free(bind)
                break
            except ListenError as error:
                if time.monotonic() > deadline:
                    raise StartError(str(error)) from error
            time.sleep(0.1)


def _hold_life_port(config: Config) -> None:
    """As LIFE_FD. Without it this host serves all the same."""
    os.environ.pop(LISTENS, None)
    if not config.interconnect.bind:
        return
    try:
        port = open_life_port(config.interconnect.bind).detach()
    except (OSError, ValueError, OverflowError) as error:
        log.setup(config.log, "supervise")
        log.logger("supervise").warning(
            "life_port_closed", bind=config.interconnect.bind, cause=str(error),
            effect="when this host dies, the others notice after 3 s, not after half a second",
            next="set interconnect.bind where the fourth port above it is free, and restart this host",
        )  # fmt: skip
        return
    if port != LIFE_FD:
        os.dup2(port, LIFE_FD)
    os.set_inheritable(LIFE_FD, True)
    os.environ[LISTENS] = "1"


def _clean(run: Path) -> None:
    """Remove what an earlier run left: the layout of its counters may be of another version."""
    for left in [run / "counters", *run.glob("*.sock"), *run.glob("*.sock.*"), *run.glob("*.trouble")]:
        left.unlink(missing_ok=True)


def _write_configuration(run: Path, config: Config) -> Path:
    """supervisord's, and the copy of ours that the processes read."""
    if len(os.fsencode(run)) > _RUN_DIR_MAX_BYTES:
        raise StartError(
            f"{run}: too long for the unix sockets in it. Set node.run_dir to {_RUN_DIR_MAX_BYTES} bytes or less."
        )
    template = Template(Path(__file__).with_name("supervisord.conf").read_text(encoding="utf-8"))
    text = template.substitute(
        run_dir=_value(os.fspath(run)),
        config=_value(shlex.quote(os.fspath(run / "mqnode.toml"))),
        launch=f"{_LAUNCH} {_value(shlex.quote(sys.executable))} -P",
        workers=worker_count(config),
        interconnect="true" if config.interconnect.bind else "false",
        user="user=root" if os.getuid() == 0 else "",  # else supervisord complains about being root
    )
    _write(run / "mqnode.toml", to_toml(config))
    _write(run / "supervisord.conf", text)
    return run / "supervisord.conf"


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _value(text: str) -> str:
    """`text` as supervisord's parser reads it back."""
    if any(forbidden in text for forbidden in ("\n", "\r", " ;", " #")):
        raise StartError(f"{text!r}: supervisord would take part of this path for a comment. Choose another path.")
    return text.replace("%", "%%")


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:  # under systemd they are equal, and setrlimit is forbidden
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: list[str]) -> NoReturn:
    """`python -m node.supervise --config FILE`."""
    if len(arguments) != 2 or arguments[0] != "--config":
        sys.exit("usage: python -m node.supervise --config FILE")
    try:
        run(arguments[1], load(arguments[1]))
    except (ConfigError, StartError) as error:
        sys.exit(f"mqnode: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
