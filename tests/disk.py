"""A small file system of its own, which can be filled."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def small_disk(size_mib: int) -> Iterator[Path]:
    """Where it is mounted. Only root may do that."""
    disk = Path(tempfile.mkdtemp(prefix="mqnode-disk-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)
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
