"""The admin process: `python -m node.admin --config FILE`. Health, metrics and the API that the CLI uses, over HTTP.

It holds no state of its own: whatever it is killed in the middle of is asked again.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
from pathlib import Path

import gevent
from gevent import monkey

monkey.patch_all()

from gevent.pywsgi import WSGIServer  # noqa: E402

from node import counters, log, process  # noqa: E402
from node.admin.api import make_app  # noqa: E402
from node.admin.host import Host  # noqa: E402
from node.auth.security import is_local  # noqa: E402
from node.config import Config, Listener, load  # noqa: E402
from node.listeners.sockets import split_bind  # noqa: E402

BEAT_S = 0.2


def token_path(config: Config) -> Path:
    return Path(config.admin.token_file or Path(config.node.data_dir) / "admin.token")


def read_token(path: Path) -> str:
    """The token, made at the first start."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        temporary.rename(path)
    return path.read_text(encoding="ascii").strip()


def _beat(host: Host) -> None:
    slot = host.counters.slot(counters.ADMIN)
    while True:
        counters.beat(slot)
        gevent.sleep(BEAT_S)


def main(arguments: list[str]) -> None:
    process.die_with_parent()
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="node.admin")
    parser.add_argument("--config", required=True)
    config = load(parser.parse_args(arguments).config)
    log.setup(config.log, "admin")
    if not is_local(Listener(type="tcp", bind=config.admin.bind)):
        sys.exit(
            f"mqnode: admin.bind = {config.admin.bind}: the admin API speaks plain HTTP and listens on loopback only. "
            "Set it to 127.0.0.1:PORT and put a TLS proxy in front of it."
        )
    host = Host(config)
    host.counters.claim(counters.ADMIN)
    server = WSGIServer(split_bind(config.admin.bind), make_app(host, read_token(token_path(config))), log=None)
    gevent.spawn(_beat, host)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    log.logger("admin").info("ready", bind=config.admin.bind)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
