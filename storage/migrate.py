"""From an older format of the store to today's, one step a version, all in one transaction: it is done or it never was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from storage.layout import FORMAT, StoreError

Step = Callable[[Any, dict[str, Any]], None]

STEPS: dict[int, Step] = {}  # format -> how its records become those of the next


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
