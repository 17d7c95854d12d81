"""Why a keeper ends, what it says and leaves then, and with which exit code."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

import lmdb

from node import counters
from storage.store import remove_store

if TYPE_CHECKING:
    from node.keeper.keeper import Keeper

EXIT_IO, EXIT_AGAIN = 74, 75


def begins_anew(keeper: Keeper) -> bool:
    """Is it to end, and the next one to begin with another store, number or clock, or as after a death (tail.py)?"""
    replicas = keeper.replicas
    return (
        keeper.is_over or replicas.old_copy.is_found or replicas.clock.wrong_by_ms != 0 or replicas.tail.is_left_behind
    )


def ended(keeper: Keeper) -> int:
    """The exit code when no error ended it. What becomes of a store whose time is over."""
    keeper.store.environment.sync(True)
    keeper.store.remember(keeper.writer.seq)
    old_copy = keeper.replicas.old_copy
    if old_copy.is_found:
        keeper.store.renumber(old_copy.last)
    if keeper.replicas.clock.wrong_by_ms:
        keeper.store.shift_clock(keeper.replicas.clock.wrong_by_ms)
    keeper.store.environment.close()
    if keeper.is_over:
        remove_store(keeper.store.path)
    keeper.log.info("stopped", store_removed=keeper.is_over)
    return EXIT_AGAIN if begins_anew(keeper) else 0


def failed(keeper: Keeper, error: BaseException) -> int:
    """Say what happened; the exit code. Nothing of the open transaction was acknowledged."""
    cause = str(error)
    if isinstance(error, lmdb.MapFullError) or "No space left" in cause or (
        isinstance(error, OSError) and error.errno == errno.ENOSPC
    ):  # fmt: skip
        keeper.disk.release_ballast()
        keeper.log.error(
            "disk_full", cause=cause, effect="the keeper starts anew and refuses new messages until there is room",
            next="free space on the file system of node.data_dir",
        )  # fmt: skip
        return EXIT_AGAIN
    keeper.slot[counters.INDEX["fsync_errors"]] += 1
    keeper.log.critical(
        "store_error", cause=cause, effect="nothing is acknowledged; the store is left as it was at the last commit, "
        "and each of its pages is checked before the keeper serves again", next="check the disk (dmesg)",
    )  # fmt: skip
    with suppress(OSError):
        keeper.crash.write(cause.encode())
        keeper.crash.flush()
    return EXIT_IO
