"""Whether the stores of hosts hold the same: each key and value of the databases that are replicated.

Of bodies only those that an entry names: a host sweeps what nothing refers to when it suits it.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from storage.layout import REPLICATED, open_databases, open_environment, u64
from storage.writer import parse_entry
from tests.broker import wait_for
from tests.cluster.hosts import Host

EQUAL_S = 30.0
MAP_BYTES = 1 << 40
SHOWN = 4


def contents(host: Host) -> dict[str, dict[bytes, bytes]]:
    environment = open_environment(host.data_dir / "store", MAP_BYTES, readonly=True)
    try:
        databases = open_databases(environment, create=False)
        with environment.begin() as transaction:
            found = {name: dict(transaction.cursor(databases[name])) for name in REPLICATED}
    finally:
        environment.close()
    named = {u64(parse_entry(entry)[5]) for name in ("queue", "inbox") for entry in found[name].values()}
    found["bodies"] = {key: value for key, value in found["bodies"].items() if key in named}
    return found


def differences(hosts: list[Host]) -> dict[str, str]:
    """Database to what is not the same in it, once no more time would help."""
    found: dict[str, str] = {}

    def equal() -> bool:
        first, *others = [contents(host) for host in hosts]
        found.clear()
        for host, other in zip(hosts[1:], others, strict=True):
            found.update({name: _described(first[name], other[name], hosts[0], host) for name in REPLICATED
                          if first[name] != other[name]})  # fmt: skip
        return not found

    with suppress(AssertionError):
        wait_for(equal, EQUAL_S)
    return found


def _described(one: dict[bytes, bytes], other: dict[bytes, bytes], first: Host, second: Host) -> str:
    keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    kinds = Counter(
        "both" if key in one and key in other else first.name if key in one else second.name for key in keys
    )
    shown = "; ".join(f"{key!r}: {one.get(key, b'')[:60]!r} | {other.get(key, b'')[:60]!r}" for key in keys[:SHOWN])
    return f"{len(keys)} keys differ (in {dict(kinds)}): {shown}"
