"""Before a stop: `python -m node.stop --config FILE` returns when the clients are at other hosts, or node.drain_s is over.

It says nothing, whatever goes wrong: the stop goes on, and clients without a host find another one by themselves.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress

import click

from node.cli.api import Api
from node.config import load

ASK_S = 0.1
GRACE_S = 2.0  # at most: balancers notice by /ready before the first client looks for another host


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="node.stop")
    parser.add_argument("--config", required=True)
    path = parser.parse_args(arguments).config
    drain_s = load(path).node.drain_s
    deadline_s = time.monotonic() + drain_s
    if not drain_s:
        return
    with suppress(click.ClickException), Api(path) as api:
        state = api.post("v1", "drain", grace_s=min(GRACE_S, drain_s / 4), timeout_s=drain_s)
        while state.get("phase") in ("waiting", "moving") and time.monotonic() < deadline_s:
            time.sleep(ASK_S)
            state = api.get("v1", "drain")


if __name__ == "__main__":
    main(sys.argv[1:])
