"""The admin process: `python -m node.admin --config FILE`. Health, metrics and the API that the CLI uses, over HTTP.

It holds no state of its own: whatever it is killed in the middle of is asked again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

import gevent
from gevent import monkey

monkey.patch_all()

from gevent import pywsgi  # noqa: E402

from node import counters, log, process  # noqa: E402
from node.admin.api import make_app, make_health_app  # noqa: E402
from node.admin.host import Host  # noqa: E402
from node.admin.token import make_token, token_path  # noqa: E402
from node.auth.security import is_local  # noqa: E402
from node.config import Listener, load  # noqa: E402
from node.listeners.sockets import split_bind  # noqa: E402

BEAT_S = 0.2
pywsgi.MAX_REQUEST_LINE = 3 * 65_535 + 1024  # the longest topic, percent-encoded


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
    server = pywsgi.WSGIServer(split_bind(config.admin.bind), make_app(host, make_token(token_path(config))), log=None)
    gevent.spawn(_beat, host)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    if config.admin.health_bind:
        pywsgi.WSGIServer(split_bind(config.admin.health_bind), make_health_app(host), log=None).start()
    log.logger("admin").info("ready", bind=config.admin.bind)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
