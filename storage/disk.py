"""The room on the store's disk. LMDB needs free pages even to delete, so a ballast file is kept to be given up."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_SHARE = 0.10  # of a small file system, at most


class Disk:
    def __init__(self, data_dir: Path, ballast_bytes: int, high_water_percent: int) -> None:
        self._data_dir = data_dir
        self._path = data_dir / "ballast"
        status = os.statvfs(data_dir)
        size = status.f_frsize * status.f_blocks
        self._ballast_bytes = min(ballast_bytes, int(size * _SHARE))
        # On a large disk a percentage would be a waste: what counts is the room for some minutes of messages.
        self._low_bytes = min(4 * self._ballast_bytes, size * (100 - high_water_percent) // 100)
        self._full = False

    def free_bytes(self) -> int:
        status = os.statvfs(self._data_dir)
        return status.f_frsize * status.f_bavail

    def check(self, reusable_bytes: int) -> bool:
        """Is the disk full, so that nothing new may be stored? Keeps the ballast while it is not.

        `reusable_bytes` of the store are as good as free ones, once messages have gone. But not quite: a large message
        needs pages that stand together, and the file grows where there are none. So at least half of what has to be free
        must be so on the disk itself, or four times as much in the store, whose file never shrinks.
        """
        free = self.free_bytes()
        needed = self._low_bytes + (self._low_bytes // 4 if self._full else 0)  # no coming and going with each message
        self._full = free + reusable_bytes < needed or free + reusable_bytes // 4 < needed // 2
        if not self._full:
            self._make_ballast()
        return self._full

    def explain(self) -> str:
        return f"{self._data_dir}: {self.free_bytes()} bytes are free, {self._low_bytes} have to be"

    def release_ballast(self) -> None:
        self._path.unlink(missing_ok=True)

    def _make_ballast(self) -> None:
        if self._path.exists() or self.free_bytes() < self._low_bytes + 2 * self._ballast_bytes:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):
                os.posix_fallocate(descriptor, 0, self._ballast_bytes)
        finally:
            os.close(descriptor)
