"""Copies of the store: made while the host runs, brought back while it stands still.

A backup is one file, a compacted data.mdb: `create` writes it under a temporary name, fsyncs it and gives it its name
at last, so that a file of that name is whole. `restore` verifies it, builds the new store beside the old one and renames;
the store that was there is moved aside, never deleted. The restored store has an incarnation and a number that this host never
had: what it commits is nothing that peers know already (storage/renumber.py; guarantees, I14). Raises StoreError.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from storage.layout import META_INCARNATION, StoreError, open_databases, open_environment, u64
from storage.renumber import new_number, renumber
from storage.verify import verify

_ROOM_BYTES = 1 << 20  # for one small record


def create(store_path: Path, target: Path) -> int:
    """Copy the store as of its last commit to the file `target`, whether the host runs or not; its size in bytes."""
    if target.exists():
        raise StoreError(f"{target}: exists already; a backup never replaces a file. Choose another name.")
    if not (store_path / "data.mdb").exists():
        raise StoreError(f"{store_path}: there is no store, so no backup was made. Check node.data_dir.")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    environment = open_environment(store_path, 0, readonly=True)
    try:
        _copy(environment, partial)
        size = partial.stat().st_size
        partial.rename(target)
        _sync_folder(target.parent)
    except (lmdb.Error, OSError) as error:
        raise StoreError(
            f"{target}: no backup was made: {error}. The store is as it was. Free space or choose another folder; "
            "if the store itself is at fault, `journalctl -u mqnode` says so."
        ) from error
    finally:
        environment.close()
        partial.unlink(missing_ok=True)
    return size


def _copy(environment: lmdb.Environment, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        environment.copyfd(descriptor, compact=True)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def restore(file: Path, store_path: Path, force: bool, wall_s: int) -> Path | None:
    """Make `file` the store at `store_path`. Returns where the store that was there is now, None if there was none."""
    try:
        with _stopped(store_path.parent):
            if (store_path / "data.mdb").exists() and not force:
                raise StoreError(
                    f"{store_path}: there is a store already; nothing was changed. "
                    "`mqnode backup restore FILE --force` moves it aside and keeps it."
                )
            verify(file)
            return _replace(file, store_path, wall_s)
    except (lmdb.Error, OSError) as error:
        raise StoreError(
            f"{store_path}: the backup was not restored: {error}. {file} is as it was. "
            "Run the command as root or as the owner of the folder, and check its free space."
        ) from error


def _replace(file: Path, store_path: Path, wall_s: int) -> Path | None:
    fresh = Path(tempfile.mkdtemp(prefix="store.restoring-", dir=store_path.parent))
    try:
        _build(file, fresh, wall_s)
        aside = _move_aside(store_path, wall_s)
        fresh.rename(store_path)
        _sync_folder(store_path.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return aside


@contextmanager
def _stopped(data_dir: Path) -> Iterator[None]:
    """No host runs on `data_dir` meanwhile: `mqnode start` (node/supervise.py) takes the same lock."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:  # the host's user has to be able to lock it later
            owner = data_dir.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        pid = os.read(descriptor, 32).decode().strip() or "?"
        raise StoreError(
            f"{data_dir}: mqnode (pid {pid}) runs on this data_dir; nothing was restored. Stop it first "
            f"(`systemctl stop mqnode` or `kill {pid}`)."
        ) from error
    finally:
        os.close(descriptor)


def _build(file: Path, folder: Path, wall_s: int) -> None:
    """A store in `folder` from `file`, owned by whom the data_dir is. Incarnations count starts, so that the time in
    seconds is beyond any that this host had since the backup."""
    shutil.copyfile(file, folder / "data.mdb")
    with open_environment(folder, 2 * file.stat().st_size + _ROOM_BYTES) as environment:
        databases: dict[str, Any] = open_databases(environment, create=True)
        meta = databases["meta"]
        with environment.begin(write=True) as transaction:
            renumber(transaction, databases, new_number())
            known = int.from_bytes(transaction.get(META_INCARNATION, b"", db=meta), "big")
            transaction.put(META_INCARNATION, u64(max(known + 1, wall_s)), db=meta)
    owner = folder.parent.stat()
    for path in (folder, folder / "data.mdb", folder / "lock.mdb"):
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o700 if path == folder else 0o600)
    _sync_folder(folder)


def _move_aside(store_path: Path, wall_s: int) -> Path | None:
    if not store_path.exists():
        return None
    aside = store_path.with_name(f"{store_path.name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(wall_s))}")
    store_path.rename(aside)
    return aside


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
