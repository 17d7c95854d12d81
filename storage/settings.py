"""What is set once for all hosts, as it is read in any open transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from storage.layout import setting_text, unsealed


def settings(transaction: Any, database: Any, prefix: str) -> Iterator[tuple[str, str | None]]:
    """(name, text) of those that begin so; a long name is cut (storage.layout.setting_key). None: the disk has changed it."""
    begin = prefix.encode()
    with transaction.cursor(db=database) as cursor:
        more = cursor.set_range(begin)
        while more and cursor.key().startswith(begin):
            record = unsealed(cursor.value())
            yield cursor.key().decode(errors="backslashreplace"), None if record is None else setting_text(record)
            more = cursor.next()
