"""A Network without namespaces, for those who are not root: each host has addresses of 127.0.0.0/8. Nothing can be cut."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tests.cluster.network import CLI, CLIENTS, NUMBERS

T = TypeVar("T")


class Loopback:
    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts

    def __enter__(self) -> Loopback:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def address(self, name: str, side: str = CLIENTS) -> str:
        if name == CLI:
            return "127.0.0.1"  # from which the kernel connects to all of 127.0.0.0/8
        return f"127.{NUMBERS[side]}.{os.getpid() % 256}.{self.hosts.index(name) + 1}"  # other tests run beside us

    def inside(self, _: str, call: Callable[[], T]) -> T:
        return call()

    def run(self, _: str, argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, **options)
