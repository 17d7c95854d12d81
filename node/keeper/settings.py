"""What is set once for all hosts, in the store like all that is replicated: who needs it is told of each change.

Keys of the configuration are needed at the start, when no store is open: they are left in a file (node/config/cluster.py). What it
says and the store does not is a change, so that none goes by without its event in the log, whatever died in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from node.config import cluster
from node.sessions.outbox import Outbox
from storage.store import Store
from storage.writer import Writer

CONFIG = "config/"  # what the names of keys begin with


class Value(Struct):
    value: Any = None  # None: it is not set any more
    by: str = ""


_decode = msgspec.json.Decoder(Value).decode


def values_of(settings: Iterable[tuple[str, str]]) -> dict[str, Value]:
    """The keys in these settings, those that are not set any more too."""
    return {name.removeprefix(CONFIG): _decode(text) for name, text in settings}


class Settings:
    def __init__(self, store: Store, writer: Writer, outbox: Outbox, data_dir: str, log: Any) -> None:
        self._store, self._writer, self._outbox = store, writer, outbox
        self._data_dir, self._log = data_dir, log
        self._keep_values()

    def committed(self) -> None:
        """It is on this host's disk, whoever put it. Workers read it there: what it says is in no frame."""
        if self._writer.settings_changed:
            self._keep_values()
            self._outbox.broadcast("settings", {}, urgent=True)

    def _keep_values(self) -> None:
        found = values_of(self._store.settings(CONFIG).items())
        values = {key: each.value for key, each in found.items() if each.value is not None}
        before = cluster.load(self._data_dir)
        if values == before:
            return
        try:
            cluster.save(self._data_dir, values)
        except OSError as error:
            self._log.error(
                "cluster_values_unwritten", cause=str(error), effect="the next start goes without what was set last",
                next="make room in node.data_dir, then restart mqnode twice",
            )  # fmt: skip
            return
        for key in sorted(values.keys() | before.keys()):
            if values.get(key) != before.get(key):
                self._log.warning(
                    "cluster_value_set", key=key, before=before.get(key), after=values.get(key),
                    by=found[key].by if key in found else "", cause="set for all hosts", effect="none before a restart",
                    next="systemctl restart mqnode",
                )  # fmt: skip
