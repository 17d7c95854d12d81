"""How often an address may fail to log in: a token bucket for each, forgotten once it is full again. Time is an argument."""

from __future__ import annotations

ADDRESSES_MAX = 100_000


class Throttle:
    """`per_minute` 0: no limit."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._failures: dict[str, tuple[float, float]] = {}  # address -> (failures that still count, when)

    def allowed(self, address: str, now_s: float) -> bool:
        return not self._per_minute or self._counting(address, now_s) < self._per_minute

    def failed(self, address: str, now_s: float) -> None:
        if not self._per_minute:
            return
        if len(self._failures) >= ADDRESSES_MAX:
            self._failures = {each: entry for each, entry in self._failures.items() if self._counting(each, now_s) > 0}
        if address in self._failures or len(self._failures) < ADDRESSES_MAX:
            self._failures[address] = (self._counting(address, now_s) + 1, now_s)

    def _counting(self, address: str, now_s: float) -> float:
        failures, when_s = self._failures.get(address, (0.0, now_s))
        return max(0.0, failures - (now_s - when_s) * self._per_minute / 60)
