"""Many sessions change their host at once: one that leaves gives its own away, those of one that is removed are taken."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from storage.layout import SessionRecord

if TYPE_CHECKING:
    from node.sessions.directory import Directory


def give(directory: Directory, numbers: list[int], most: int) -> int:
    """Give sessions whose clients are not here to these hosts, evenly; how many are still ours."""
    own = [record for record in directory.sessions.values() if directory.elsewhere.owns(record)]
    idle = (each for each in own if not _is_in_use(directory, each))
    given = list(islice(idle, most))
    for record in given:
        directory.elsewhere.give(record, numbers[record.sid % len(numbers)])
    return len(own) - len(given)


def take(directory: Directory, number: int, most: int) -> int:
    """Take sessions of a host that is no member any more; how many it still has."""
    own = [record for record in directory.sessions.values() if record.owner == number]
    taken = list(islice((each for each in own if not _is_in_use(directory, each)), most))
    for record in taken:
        directory.elsewhere.own(record, asked=False)
        directory.expire_later(record)
    return len(own) - len(taken)


def _is_in_use(directory: Directory, record: SessionRecord) -> bool:
    return record.client_id in directory.owners or directory.is_claimed(record.client_id)
