"""A small file system of its own, which can be filled."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.broker import wait_for


@contextmanager
def small_disk(size_mib: int) -> Iterator[Path]:
    """Where it is mounted. Only root may do that."""
    disk = Path(tempfile.mkdtemp(prefix="mqnode-disk-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        # a process that was killed lets go of its files a moment after it counts as dead
        wait_for(
            lambda: subprocess.run(["umount", disk], stderr=subprocess.DEVNULL).returncode == 0, 10, f"{disk} is in use"
        )
        disk.rmdir()


@contextmanager
def no_byte_left(folder: Path) -> Iterator[None]:
    """Another program takes the rest of the disk meanwhile."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        filler.unlink()
