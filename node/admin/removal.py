"""Another host is dead for good: what it may take along, and its sessions, which go on here."""

from __future__ import annotations

import math
from typing import Any

import falcon

from node import log
from node.admin.host import Host
from node.admin.link import LinkError
from storage.layout import SessionRecord
from storage.reader import Reader

SESSIONS_A_STEP = 2000


def describe(host: Host, name: str) -> dict[str, Any]:
    """What is known here of the member, and the sessions that it delivered last; falcon.HTTPNotFound if there is none.
    Raises LinkError."""
    node = _node(host, name)
    known = {each["node_id"]: each for each in host.ask_keeper("peers")["peers"]}.get(node["node_id"])
    if known is None:
        raise LinkError(
            f"the keeper has just started, and knows nothing of {name} yet: nothing was changed. Try again in 3 s"
        )
    number = known["number"]

    def owned(reader: Reader) -> list[tuple[SessionRecord, int, int]]:
        found = (
            record for record in reader.sessions(limit=(1 << 31) - 1, after="", match="*") if record.owner == number
        )
        return [(record, *reader.queue_depth(record.sid)) for record in found]

    sessions = sorted(host.read(owned), key=lambda each: -each[1]) if number else []
    was_in_sync = known["was_in_sync"]
    return {
        "name": name,
        "state": node["state"],
        "is_known": bool(number),  # has this host met it since it began?
        "was_in_sync": was_in_sync,  # was here all that it had acknowledged, when it went?
        "sessions": len(sessions),
        "queued_messages": sum(messages for _, messages, _ in sessions),
        "at_risk": [
            {"client_id": record.client_id, "queued_messages": each}
            for record, each, _ in ([] if was_in_sync else sessions)
        ],
        "number": number,
    }


def remove(host: Host, name: str) -> dict[str, Any]:
    """It is no member from now on; its sessions are this host's."""
    found = describe(host, name)
    host.ask_interconnect("remove", name=name)
    before, left = math.inf, found["sessions"]
    while 0 < left < before:  # those whose clients are connected here the keeper takes later
        before, left = left, host.ask_keeper("take_over", number=found["number"], most=SESSIONS_A_STEP)
    log.logger("admin").warning(
        "host_removed", name=name, sessions=found["sessions"], queued_messages=found["queued_messages"],
        cause="somebody said that it is dead for good: mqnode cluster remove",
        effect="its sessions go on at this host; what only its disk has comes back if it joins again", next="nothing",
    )  # fmt: skip
    return found


def _node(host: Host, name: str) -> dict[str, Any]:
    if not host.config.interconnect.bind:
        raise falcon.HTTPNotFound(description="this host is alone: it has no interconnect, so there is no other host")
    for each in host.ask_interconnect("nodes")["nodes"]:
        if each["name"] == name and not each["this_host"]:
            found: dict[str, Any] = each
            return found
    raise falcon.HTTPNotFound(description=f"no other host of this cluster is named {name!r}: mqnode cluster nodes")
