"""The opened store of the keeper: environment, format, clock, incarnation, and the map that grows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import lmdb
import lmdb.verify

from storage import migrate
from storage.layout import (
    FORMAT,
    FORMAT_SETTINGS,
    META_BOOT,
    META_CLOCK,
    META_FORMAT,
    META_FORMER,
    META_INCARNATION,
    META_NUMBER,
    META_SEQ,
    StoreError,
    open_databases,
    open_environment,
    unsealed,
)
from storage.renumber import is_older, new_number, remember, renumber
from storage.settings import settings

_ROOM_FACTOR = 512  # bytes of pages for each byte of input, at worst: a target takes ten, and touches a page of its own
_ROOM_BYTES = 64 << 20
_MOVED_FACTOR = (
    2  # of all that is there: it may go to other places at once, as what came for a session does when it is taken over
)


class Store:
    def __init__(self, path: Path, environment: lmdb.Environment, max_map_bytes: int) -> None:
        self.path = path
        self.environment = environment
        self.databases = open_databases(environment, create=True)
        self.incarnation = 0
        with environment.begin() as transaction:
            stored = transaction.get(META_NUMBER, b"", db=self.databases["meta"])
            former = transaction.get(META_FORMER, b"", db=self.databases["meta"])
        self.number = int.from_bytes(stored, "big") or new_number()  # of this host, in the ids that it gives
        self.former = {int.from_bytes(former[at : at + 8], "big") for at in range(0, len(former), 8)}
        self._max_map_bytes = max_map_bytes
        self._page_bytes = environment.stat()["psize"]

    def start_clock(self, wall_ms: int, monotonic_ms: int, boot: bytes) -> int:
        """The offset of the store clock to CLOCK_MONOTONIC. It is the same for each start within one boot of the kernel, and
        never goes back, whatever the wall clock does. Also counts the incarnation; these and the number are on disk before
        this returns."""
        with self.environment.begin(write=True) as transaction:
            meta = self.databases["meta"]
            last = int.from_bytes(transaction.get(META_CLOCK, b"", db=meta), "big")
            known = transaction.get(META_BOOT, b"", db=meta)
            same_boot = boot != b"" and known[:16] == boot
            now = max(last, monotonic_ms + int.from_bytes(known[16:], "big", signed=True) if same_boot else wall_ms)
            transaction.put(META_CLOCK, now.to_bytes(8, "big"), db=meta)
            if boot:
                transaction.put(META_BOOT, boot + (now - monotonic_ms).to_bytes(8, "big", signed=True), db=meta)
            transaction.put(META_NUMBER, self.number.to_bytes(8, "big"), db=meta)
            self.incarnation = int.from_bytes(transaction.get(META_INCARNATION, b"", db=meta), "big") + 1
            transaction.put(META_INCARNATION, self.incarnation.to_bytes(8, "big"), db=meta)
            seq = int.from_bytes(transaction.get(META_SEQ, b"", db=meta), "big")
        self.remember(seq)
        return now - monotonic_ms

    def shift_clock(self, by_ms: int) -> None:
        """At the next start, if that is within this boot."""
        with self.environment.begin(write=True) as transaction:
            meta = self.databases["meta"]
            last = int.from_bytes(transaction.get(META_CLOCK, b"", db=meta), "big")
            known = transaction.get(META_BOOT, b"", db=meta)
            offset_ms = int.from_bytes(known[16:], "big", signed=True)
            transaction.put(META_CLOCK, (last + by_ms).to_bytes(8, "big"), db=meta)
            if known:
                transaction.put(META_BOOT, known[:16] + (offset_ms + by_ms).to_bytes(8, "big", signed=True), db=meta)

    def remember(self, seq: int) -> None:
        """All commits up to this one are on the disk."""
        remember(self.path, self.number, self.incarnation, seq)

    def is_older(self) -> bool:
        """Was it put back from an earlier time?"""
        with self.environment.begin() as transaction:
            return is_older(self.path, transaction, self.databases["meta"])

    def renumber(self, last: int | None = None) -> None:
        """It is an old copy. Whoever has opened it has to open it anew. `last`: see storage/renumber.py."""
        with self.environment.begin(write=True) as transaction:
            renumber(transaction, self.databases, new_number(), last)

    def contents(self) -> tuple[list[bytes], list[tuple[int, bytes]], list[tuple[int, bytes]]]:
        """Session records, wills by id, subscriptions by sid. Raises lmdb.CorruptedError if one was changed by the disk."""
        with self.environment.begin() as transaction:

            def walk(name: str) -> list[tuple[bytes, bytes]]:
                return [(key, _whole(value)) for key, value in transaction.cursor(db=self.databases[name])]

            sessions = [value for _, value in walk("sessions")]
            wills = [(int.from_bytes(key, "big"), value) for key, value in walk("wills")]
            subscriptions = [(int.from_bytes(key[:8], "big"), value) for key, value in walk("subs")]
        return sessions, wills, subscriptions

    def settings(self, prefix: str) -> dict[str, str]:
        """Name and text of those that are whole and begin so."""
        with self.environment.begin() as transaction:
            found = settings(transaction, self.databases["settings"], prefix)
            return {name: text for name, text in found if text is not None}

    def entries(self, name: str) -> int:
        """Keys in a database."""
        with self.environment.begin() as transaction:
            return int(transaction.stat(self.databases[name])["entries"])

    def map_bytes(self) -> int:
        return int(self.environment.info()["map_size"])

    def used_bytes(self) -> int:
        """Of the file; it never shrinks."""
        return int(self.environment.info()["last_pgno"] + 1) * self._page_bytes

    def reusable_bytes(self) -> int:
        """Of the file: pages that hold nothing any more and are taken before it grows."""
        with self.environment.begin() as transaction:
            trees = [transaction.stat(), *(transaction.stat(database) for database in self.databases.values())]
        pages = sum(tree[kind] for tree in trees for kind in ("branch_pages", "leaf_pages", "overflow_pages"))
        return self.used_bytes() - pages * self._page_bytes

    def readers(self) -> int:
        """Transactions that read now, in any process. The pages that they see are not reused before they end."""
        _heading, *readers = self.environment.readers().splitlines()
        return len(readers)

    def at_limit(self) -> bool:
        """Is max_map_bytes so near that nothing new may be stored?"""
        room = min(_ROOM_BYTES, self._max_map_bytes // 4)
        left = self._max_map_bytes - self.used_bytes()
        return left < room and left + self.reusable_bytes() < room

    def make_room(self, input_bytes: int) -> None:
        """Grow the map, between transactions, so that the next one cannot meet its end. Only addresses: no room on the disk, for
        which `at_limit` is asked."""
        needed = _addresses(self.used_bytes()) + _ROOM_FACTOR * input_bytes
        size = self.map_bytes()
        if needed <= size:
            return
        while size < needed:
            size *= 2
        self.environment.set_mapsize(size)


def _addresses(used_bytes: int) -> int:
    return (1 + _MOVED_FACTOR) * used_bytes + _ROOM_BYTES


def open_store(path: Path, map_bytes: int, max_map_bytes: int, suspect: bool = False) -> Store:
    """The store at `path`, made if there is none; if it is `suspect`, every page is checked first. Raises StoreError; never
    deletes anything."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = path / "data.mdb"
    if data.exists():
        map_bytes = max(map_bytes, _addresses(data.stat().st_size))
        if suspect or data.stat().st_size == 0:  # of an empty file LMDB would make a new store
            _check_pages(path)
    environment = open_environment(path, map_bytes)
    try:
        if environment.info()["last_pgno"] >= data.stat().st_size // environment.stat()["psize"]:
            _check_pages(path)  # cut off, unless only pages that hold nothing are missing
        store = Store(path, environment, max_map_bytes)
        _check_format(store)
        if store.is_older():
            store.renumber()
            store = Store(path, environment, max_map_bytes)
    except (lmdb.Error, StoreError) as error:
        environment.close()
        raise error if isinstance(error, StoreError) else damaged(path, error) from error
    for name in ("data.mdb", "lock.mdb"):
        os.chmod(path / name, 0o600)
    return store


def _whole(value: bytes) -> bytes:
    record = unsealed(value)
    if record is None:
        raise lmdb.CorruptedError("a record's checksum does not fit")
    return record


def remove_store(path: Path) -> None:
    """Of a host that has left: others have what it held. A new one, with a number of its own, is no copy of what was here, so
    that nothing in it counts as deleted."""
    over = path.with_name(f"{path.name}.over")
    shutil.rmtree(over, ignore_errors=True)
    path.rename(over)
    shutil.rmtree(over)


def damaged(path: Path, cause: object) -> StoreError:
    return StoreError(
        f"{path}: is damaged: {cause}. mqnode does not start on it and has deleted nothing. "
        "Run `mqnode backup restore FILE --force`, which keeps the damaged store beside it."
    )


def _check_pages(path: Path) -> None:
    """Without LMDB, which damaged pages may bring to its knees."""
    try:
        found = lmdb.verify.verify(path)  # type: ignore[no-untyped-call]
    except lmdb.verify.VerifyError as error:
        found = [error]
    if found:
        raise damaged(path, found[0])


def _check_format(store: Store) -> None:
    with store.environment.begin(write=True) as transaction:
        meta = store.databases["meta"]
        found = transaction.get(META_FORMAT, db=meta)
        if found is None:
            transaction.put(META_FORMAT, FORMAT.to_bytes(4, "big"), db=meta)
            return
        version = int.from_bytes(found, "big")
        if version > FORMAT_SETTINGS:
            raise StoreError(
                f"{store.path}: was written by a newer mqnode (format {version}, this one knows up to {FORMAT_SETTINGS}). "
                "mqnode does not start on it and has changed nothing. Install the newer version again."
            )
        if version < FORMAT:
            migrate.migrate(transaction, store.databases, version)
            transaction.put(META_FORMAT, FORMAT.to_bytes(4, "big"), db=meta)
