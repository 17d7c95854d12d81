"""Each host has a file in a folder that all share (NFS and the like): ID.json. Too old a file is of a host that is gone."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mesh.discovery import FOUND_MAX, Found
from node.config import Config
from node.discovery.board import ENTRY_BYTES_MAX, BoardError, fresh, is_entry, ttl_s


class Folder:
    def __init__(self, config: Config) -> None:
        self._folder = Path(config.discovery.folder)
        self._ttl_s = ttl_s(config)
        self._own = ""

    def announce(self, own: Found) -> None:
        self._own = f"{own.node_id}.json"
        draft = self._folder / f".{own.node_id}.draft"
        try:
            draft.write_bytes(own.to_json())
            draft.chmod(0o644)  # the others' users may differ
            draft.rename(self._folder / self._own)
        except OSError as error:
            raise BoardError(
                f"{self._folder} cannot be written: {error.strerror}. The user of the service needs to write in discovery.folder"
            ) from error

    def look(self) -> list[Found]:
        written_s: dict[str, float] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if is_entry(entry.name) and len(written_s) < FOUND_MAX:
                    with suppress(FileNotFoundError):
                        if entry.is_file(follow_symlinks=False):  # a FIFO would never be read to its end
                            written_s[entry.name] = entry.stat().st_mtime
        current = fresh(written_s, self._own, self._ttl_s)
        for name in written_s.keys() - current:
            with suppress(OSError):
                (self._folder / name).unlink()
        return [found for name in sorted(current) if (found := self._read(name)) is not None]

    def _read(self, name: str) -> Found | None:
        try:
            with (self._folder / name).open("rb") as file:
                return Found.from_json(file.read(ENTRY_BYTES_MAX))
        except OSError:
            return None

    def withdraw(self, own: Found) -> None:
        (self._folder / self._own).unlink(missing_ok=True)
