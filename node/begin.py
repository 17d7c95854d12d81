"""What keeper, workers, interconnect and admin do first, each with its own name."""

from __future__ import annotations

import argparse
import os

from node import log, process
from node.config import Config, load


def begin(name: str, arguments: list[str]) -> tuple[Config, int]:
    """The configuration, and which of the workers it is. From now on it can log."""
    process.die_with_parent()
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog=f"node.{name}")
    parser.add_argument("--config", required=True)
    parser.add_argument("--index", type=int, default=0)
    options = parser.parse_args(arguments)
    config = load(options.config)
    log.setup(config.log, f"worker-{options.index}" if name == "worker" else name)
    return config, options.index
