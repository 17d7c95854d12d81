"""What `$SYS/broker/...` says: the host's counters under the names that users of mosquitto read (mosquitto(8), BROKER STATUS)."""

from __future__ import annotations

import math

from node import __version__
from node.counters import PACKETS_RECEIVED, PACKETS_SENT

# name of the load, with the counters whose growth it tells
_LOADS = {
    "messages/received": PACKETS_RECEIVED,
    "messages/sent": PACKETS_SENT,
    "publish/received": ("publish_received_qos0", "publish_received_qos1", "publish_received_qos2"),
    "publish/sent": ("publish_sent_qos0", "publish_sent_qos1", "publish_sent_qos2"),
    "publish/dropped": (),
    "bytes/received": ("bytes_received",),
    "bytes/sent": ("bytes_sent",),
    "sockets": ("sockets_opened",),
    "connections": ("connects_accepted",),
}
_MINUTES = (1, 5, 15)


class SysTopics:
    """Feed it the host's totals at each interval; it keeps the peaks and the moving averages between them."""

    def __init__(self, started_at_s: float) -> None:
        self._started_at_s = started_at_s
        self._version = f"mqnode version {__version__}"
        self._clients_maximum = 0
        self._heap_maximum = 0
        self._previous: dict[str, int] = {}
        self._previous_s = started_at_s
        self._loads: dict[str, float] = {}

    def values(self, totals: dict[str, int], heap_bytes: int, now_s: float) -> dict[str, str]:
        """Topic to payload. `totals`: every name of counters.NAMES; `heap_bytes` of all processes; `now_s` on the clock of
        `started_at_s`."""
        connected = totals["clients_connected"]
        disconnected = max(0, totals["sessions"] - totals["sessions_connected"])
        self._clients_maximum = max(self._clients_maximum, connected + disconnected)
        self._heap_maximum = max(self._heap_maximum, heap_bytes)
        sums = {name: sum(totals[each] for each in counters) for name, counters in _LOADS.items()}
        sums["publish/dropped"] = sum(count for name, count in totals.items() if name.startswith("dropped_"))
        figures: dict[str, int | str] = {
            "version": self._version,
            "uptime": f"{int(now_s - self._started_at_s)} seconds",
            "clients/total": connected + disconnected,
            "clients/maximum": self._clients_maximum,
            "clients/connected": connected,
            "clients/active": connected,
            "clients/disconnected": disconnected,
            "clients/inactive": disconnected,
            "clients/expired": totals["sessions_expired"],
            "messages/received": sums["messages/received"],
            "messages/sent": sums["messages/sent"],
            "messages/stored": totals["queued_messages"] + totals["retained_messages"],
            "store/messages/count": totals["queued_messages"] + totals["retained_messages"],
            "store/messages/bytes": totals["queued_bytes"],
            "publish/messages/received": sums["publish/received"],
            "publish/messages/sent": sums["publish/sent"],
            "publish/messages/dropped": sums["publish/dropped"],
            "publish/bytes/received": totals["publish_bytes_received"],
            "publish/bytes/sent": totals["publish_bytes_sent"],
            "bytes/received": sums["bytes/received"],
            "bytes/sent": sums["bytes/sent"],
            "subscriptions/count": totals["subscriptions"],
            "shared_subscriptions/count": totals["subscriptions_shared"],
            "retained messages/count": totals["retained_messages"],
            "heap/current": heap_bytes,
            "heap/maximum": self._heap_maximum,
        }
        topics = {f"$SYS/broker/{name}": str(value) for name, value in figures.items()}
        return topics | self._averages(sums, now_s)

    def _averages(self, sums: dict[str, int], now_s: float) -> dict[str, str]:
        """Growth per minute, exponentially averaged over 1, 5 and 15 minutes."""
        elapsed_s = now_s - self._previous_s
        if self._previous and elapsed_s > 0:
            for name, total in sums.items():
                rate = (total - self._previous[name]) * 60 / elapsed_s
                for minutes in _MINUTES:
                    topic = f"$SYS/broker/load/{name}/{minutes}min"
                    keep = math.exp(-elapsed_s / (60 * minutes))
                    self._loads[topic] = rate + keep * (self._loads.get(topic, 0.0) - rate)
        self._previous, self._previous_s = sums, now_s
        return {topic: f"{load:.2f}" for topic, load in self._loads.items()}
