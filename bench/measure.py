"""What the kernel knows of a broker's processes and of the disk, and the steps that every scenario takes with a Load."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from node.core.load import Load

SETTLE_S = 60.0
DRAIN_S = 20.0
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """The scenario cannot be measured with this broker; the text says why."""


def cpu_s(pids: Iterable[int]) -> float:
    """utime and stime of all threads: by the scheduler's own clock where it tells (a tick is 10 ms)."""
    total = 0.0
    for pid in pids:
        with suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks = (int(stat[11]) + int(stat[12])) / TICKS_A_SECOND
            exact = sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat"))
            total += exact / 1e9 or ticks
    return total


def memory_bytes(pids: Iterable[int]) -> int:
    """Resident memory that the kernel cannot take back: without the pages of files, such as the store's."""
    total = 0
    for pid in pids:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        total += sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))
    return total


def fdatasync_s(folder: Path, count: int = 200) -> tuple[float, float]:
    """Median and p99 of `count` appends of 4 KiB with fdatasync: what this disk gives at this moment."""
    path = folder / "fdatasync"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            file.write(bytes(4096))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    path.unlink()
    return sorted(times)[count // 2], sorted(times)[count * 99 // 100]


def settle(load: Load, timeout_s: float = SETTLE_S) -> None:
    """Connect and subscribe all."""
    deadline = time.monotonic() + timeout_s
    while not load.ready:
        if time.monotonic() > deadline:
            raise Failed(f"not all connected and subscribed within {timeout_s:.0f} s: {load.stats()}")
        load.step(100)
    stats = load.stats()
    if stats["connected"] < stats["connections"] or stats["subscribe_refused"]:
        raise Failed(f"connections or subscriptions were refused: {stats}")


def publish_for(load: Load, seconds: float) -> None:
    """Publish for so long, then wait until all is acknowledged and delivered, or nothing comes any more."""
    load.publish()
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not load.done:
        load.step(left * 1000)
    load.publish(False)
    drain(load)


def drain(load: Load) -> None:
    deadline = time.monotonic() + DRAIN_S
    seen = -1
    while not load.done and time.monotonic() < deadline:
        stats = load.stats()
        if stats["bytes_received"] == seen:
            break
        seen = stats["bytes_received"]
        load.step(1000)
