"""From an older format of the store to today's, one step a version, all in one transaction: it is done or it never was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from storage.layout import FORMAT, META_NUMBER, META_SEQ, NUMBER_BITS, REPLICATED, StoreError, sealed

Step = Callable[[Any, dict[str, Any]], None]


def _add_dots(transaction: Any, databases: dict[str, Any]) -> None:
    """1 to 2: every replicated value has checksum and dot before its record; all that is there is put anew by this host."""
    number, seq = (
        int.from_bytes(transaction.get(key, b"", db=databases["meta"]), "big") for key in (META_NUMBER, META_SEQ)
    )
    dot = number << NUMBER_BITS | seq + 1
    for name in REPLICATED:
        with transaction.cursor(db=databases[name]) as cursor:
            for key, value in cursor:
                record = value[4:] if name in ("queue", "inbox", "bodies", "retained") else value
                cursor.put(key, sealed(record if name != "packet_ids" else bytes(4), dot))
    if seq:  # what the peers lack is told by a snapshot
        transaction.drop(databases["outbox"], delete=False)
        transaction.put(META_SEQ, (seq + 1).to_bytes(8, "big"), db=databases["meta"])


STEPS: dict[int, Step] = {1: _add_dots}  # format -> how its records become those of the next


def migrate(transaction: Any, databases: dict[str, Any], version: int, steps: dict[int, Step] = STEPS,
            target: int = FORMAT) -> None:  # fmt: skip
    """Raises StoreError if there is no way from `version`."""
    while version < target:
        step = steps.get(version)
        if step is None:
            raise StoreError(
                f"the store has format {version}, from which this mqnode knows no way to {target}. Nothing was changed. "
                "Install the version that wrote it, and upgrade in smaller steps."
            )
        step(transaction, databases)
        version += 1
