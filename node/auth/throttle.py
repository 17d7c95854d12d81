"""Failed CONNECTs of each address: a token bucket that refills in a minute. Time is an argument; memory is bounded.

An IPv6 client owns its whole /64, so that is one address here. Each worker counts for itself.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

ADDRESSES_MAX = 65_536  # the one that failed longest ago is forgotten first: its bucket is the fullest
_REFILL_S = 60.0


class Throttle:
    """`rate`: failures a minute that an address may have; 0: any number."""

    def __init__(self, rate: int) -> None:
        self._rate = float(rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # network -> tokens, as of when

    def __len__(self) -> int:
        return len(self._buckets)

    def allowed(self, address: str, now_s: float) -> bool:
        """May this address try?"""
        return not self._rate or self._tokens(_network(address), now_s) >= 1

    def failed(self, address: str, now_s: float) -> None:
        """It tried and failed."""
        if not self._rate:
            return
        network = _network(address)
        self._buckets[network] = (max(0.0, self._tokens(network, now_s) - 1), now_s)
        self._buckets.move_to_end(network)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)

    def _tokens(self, network: str, now_s: float) -> float:
        tokens, then_s = self._buckets.get(network, (self._rate, now_s))
        return min(self._rate, tokens + max(0.0, now_s - then_s) * self._rate / _REFILL_S)


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.strip("[]"))
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
