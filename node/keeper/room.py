"""Whether there is room for what is new: on the disk, and below store.max_map_bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node import counters

if TYPE_CHECKING:
    from node.keeper.keeper import Keeper


def set_full(keeper: Keeper, disk_full: bool, at_limit: bool) -> None:
    """What the last look has found; a change is told."""
    full = disk_full or at_limit
    if full == keeper.writer.full:
        return
    keeper.writer.full = full
    keeper.slot[counters.INDEX["disk_full"]] = int(full)
    if not full:
        keeper.log.info(
            "disk_has_room", free_bytes=keeper.disk.free_bytes(), reusable_bytes=keeper.store.reusable_bytes()
        )
        return
    keeper.log.error(
        "disk_full",
        cause=keeper.disk.explain() if disk_full else f"the store has reached store.max_map_bytes: {keeper.store.path}",
        effect="new messages for queues are refused, delivery and deletion go on",
        next="free space on the file system of node.data_dir" if disk_full else "raise store.max_map_bytes",
    )
