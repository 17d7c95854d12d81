"""To which hosts the messages of a topic go; every host of the cluster gives the same answer."""

from __future__ import annotations

from collections import Counter
from typing import Any

from node.admin.host import Host
from storage.layout import SessionRecord


def route(host: Host, topic: str, subscribed_here: bool, durable: list[SessionRecord | None]) -> list[dict[str, Any]]:
    """`durable`: the records of the durable sessions with a filter that matches. A host with neither is left out."""
    hosts = host.hosts()
    if not hosts:
        hosts = {record.owner: {"name": host.config.node.name, "this_host": True} for record in durable if record}
        hosts = hosts or {0: {"name": host.config.node.name, "this_host": True}}
        interested: set[str] = set()
    else:
        interested = set(host.ask_interconnect("interested", topic=topic))
    sessions = Counter(record.owner for record in durable if record is not None)
    found = [
        {
            "host": each["name"],
            "connected": (subscribed_here and each["this_host"]) or each.get("node_id") in interested,
            "sessions": sessions[number],
        }
        for number, each in hosts.items()
    ]
    return sorted((each for each in found if each["connected"] or each["sessions"]), key=lambda each: str(each["host"]))
