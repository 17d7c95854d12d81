"""What keeper, workers, interconnect and admin do first, each with its own name."""

from __future__ import annotations

import argparse
import os

from node import log, process
from node.config import Config, load_copy


def begin(name: str, arguments: list[str]) -> Config:
    """The configuration. From now on the process can log."""
    return _configured(name, _options(name, arguments))


def begin_worker(arguments: list[str]) -> tuple[Config, int]:
    """The same, and which of the workers it is."""
    options = _options("worker", arguments, "--index")
    return _configured(f"worker-{options.index}", options), options.index


def _options(module: str, arguments: list[str], *numbers: str) -> argparse.Namespace:
    process.die_with_parent()
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog=f"node.{module}")
    parser.add_argument("--config", required=True)
    for option in numbers:
        parser.add_argument(option, type=int, default=0)
    return parser.parse_args(arguments)


def _configured(name: str, options: argparse.Namespace) -> Config:
    config = load_copy(options.config)
    log.setup(config.log, name)
    return config
