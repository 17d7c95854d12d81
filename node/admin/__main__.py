"""The admin process: `python -m node.admin --config FILE`. Health, metrics and the API that the CLI uses, over HTTP.

It holds no state of its own: whatever it is killed in the middle of is asked again.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import gevent
from gevent import pywsgi

from node import counters, log
from node.admin.api import make_app, make_health_app
from node.admin.host import Host
from node.admin.token import make_token, token_path
from node.auth.security import is_local
from node.begin import begin
from node.config import Listener
from node.listeners.sockets import split_bind

BEAT_S = 0.5
SILENCE_S = 5
pywsgi.MAX_REQUEST_LINE = 3 * 65_535 + 1024  # the longest topic, percent-encoded


class _Handler(pywsgi.WSGIHandler):  # type: ignore[misc]
    def log_error(self, message: str, *arguments: object) -> None:
        """What is no HTTP, or broke off: an event of the log like any other."""
        text = message % arguments if arguments else message
        address = "{}:{}".format(*self.client_address)
        log.logger("admin").warning(
            "bad_request", address=address, cause=text[:200], effect="closed", next="see what runs at that address"
        )


class _HealthHandler(_Handler):
    """Any host may connect: who says nothing for too long is let go. (People at a prompt of the CLI are given their time.)"""

    def handle(self) -> None:
        self.socket.settimeout(SILENCE_S)
        super().handle()


class _Errors:
    """What falcon writes of an error of ours: the trace in one line of the log."""

    def write(self, text: str) -> None:
        log.logger("admin").error(
            "request_failed", cause=text.strip(), effect="it was answered 500", next="report this as a bug"
        )


def _serve(bind: str, app: Any, handler: type[_Handler]) -> pywsgi.WSGIServer:
    return pywsgi.WSGIServer(split_bind(bind), app, log=None, error_log=_Errors(), handler_class=handler)


def _beat(host: Host) -> None:
    slot = host.counters.slot(counters.ADMIN)
    while True:
        counters.beat(slot)
        gevent.sleep(BEAT_S)


def main(arguments: list[str]) -> None:
    config = begin("admin", arguments)
    if not is_local(Listener(type="tcp", bind=config.admin.bind)):
        sys.exit(
            f"mqnode: admin.bind = {config.admin.bind}: the admin API speaks plain HTTP and listens on loopback only. "
            "Set it to 127.0.0.1:PORT and put a TLS proxy in front of it."
        )
    host = Host(config)
    server = _serve(config.admin.bind, make_app(host, make_token(token_path(config))), _Handler)
    host.counters.claim(counters.ADMIN)  # heartbeats are expected from here on
    gevent.spawn(_beat, host)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    if config.admin.health_bind:
        _serve(config.admin.health_bind, make_health_app(host), _HealthHandler).start()
    log.logger("admin").info("ready", bind=config.admin.bind)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
