"""A store that is an old copy, from a backup or of a disk that went back in time, goes on under a new number.

Other hosts may have commits of the old number that this store lacks: a new one with the number of such a commit would be taken
for it, and be lost. So the old number becomes that of a host that is gone, whose commits this store has up to a point. The host
takes its sessions again (node/sessions/handover.py).

It shows at once where the store was put back and the file beside it, which says how far it had come when the host started or
stopped last, was not.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from storage.layout import (
    META_ALONE,
    META_COVERED,
    META_EVICTED,
    META_FORMER,
    META_HOLES,
    META_INCARNATION,
    META_NUMBER,
    META_PEER,
    META_SEQ,
    u64,
)  # fmt: skip


def new_number() -> int:
    """Not 0; of a hundred hosts two get the same once in a thousand clusters, and then do not replicate."""
    return secrets.randbelow((1 << 23) - 1) + 1


def renumber(transaction: Any, databases: dict[str, Any], number: int, last: int | None = None) -> None:
    """`last`: up to there its commits are those that other hosts know by these numbers; None: all are."""
    meta = databases["meta"]

    def integer(key: bytes) -> int:
        return int.from_bytes(transaction.get(key, b"", db=meta), "big")

    old, seq = integer(META_NUMBER), integer(META_SEQ)
    if not old:
        return  # nobody has heard of it
    transaction.drop(databases["outbox"], delete=False)
    transaction.put(META_NUMBER, u64(number), db=meta)
    transaction.put(META_PEER + u64(old), u64(max(1, seq if last is None else last)), db=meta)
    transaction.put(META_FORMER, transaction.get(META_FORMER, b"", db=meta) + u64(old), db=meta)
    if seq:
        transaction.put(META_SEQ, u64(1), db=meta)
    transaction.delete(META_ALONE, db=meta)
    with transaction.cursor(db=meta) as cursor:
        # Evictions were of another time; parts lack what the old number seemed to have
        for prefix in (META_EVICTED, META_COVERED, META_HOLES):
            more = cursor.set_range(prefix)
            while more and cursor.key().startswith(prefix):
                more = cursor.delete() and bool(cursor.key())


def remember(store_path: Path, number: int, incarnation: int, seq: int) -> None:
    """The store has come to here; it is on its disk, and after this beside it."""
    partial = _beside(store_path).with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(u64(number) + u64(incarnation) + u64(seq))
        os.fsync(file.fileno())
    partial.rename(_beside(store_path))


def is_older(store_path: Path, transaction: Any, meta: Any) -> bool:
    """Has this host had a later state of the store?"""
    try:
        known = _beside(store_path).read_bytes()
    except FileNotFoundError:
        return False
    number, *reached = (
        transaction.get(key, b"", db=meta).rjust(8, b"\0") for key in (META_NUMBER, META_INCARNATION, META_SEQ)
    )
    return bool(known[:8] == number and b"".join(reached) < known[8:])


def _beside(store_path: Path) -> Path:
    return store_path.with_name(f"{store_path.name}.reached")
