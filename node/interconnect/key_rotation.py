"""`mqnode keys rotate`: this host gets another key pair, and no link is given up.

    1. the record of this host in the table of members names the next key; the others accept both
    2. when all others have that table: identity.json gets the new pair, and each connection is made anew with it at once
    3. the record names the new key only; the old one is accepted nowhere any more

While another member is away it does not begin: that one would not know the new key. A host that dies after 1 has its old key, after
2 the new one, and says so in its record when it starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent

from mesh import identity, versions
from mesh.membership import MembershipError
from node import log

if TYPE_CHECKING:
    from node.interconnect.interconnect import Interconnect
    from node.interconnect.reports import Reports

SPREAD_S = 5.0  # for the table to reach the others, and for the links to be up again
LOOK_S = 0.05


def rotate_key(interconnect: Interconnect) -> dict[str, str]:
    cluster, reports = interconnect.cluster, interconnect.reports
    if cluster.has_left:
        raise MembershipError("this host is no member of a cluster. It gets a new key when it joins again: mqnode join")
    if cluster.table.level < versions.KEYS_ROTATE:
        raise MembershipError(
            "a member's release is too old to know two keys: nothing was changed. Upgrade all hosts first"
        )
    _all_have_the_table(reports)
    before, new = cluster.fingerprint, identity.with_new_keys(cluster.identity.node_id)
    cluster.announce(new.public_key)
    interconnect.table_changed()
    try:
        _all_have_the_table(reports)
    except MembershipError:
        cluster.announce("")
        interconnect.table_changed()
        raise
    interconnect.use_key(new)
    _wait(reports.without_table)
    log.logger("interconnect").info("key_rotated", before=before, fingerprint=cluster.fingerprint)
    return {"before": before, "fingerprint": cluster.fingerprint}


def _all_have_the_table(reports: Reports) -> None:
    if away := _wait(reports.without_table):
        raise MembershipError(
            f"{', '.join(away)} cannot be told the new key now: nothing was changed. Start that host, or remove it for good "
            "(mqnode cluster remove), then run this again"
        )


def _wait(what: Callable[[], list[str]]) -> list[str]:
    """Until there is none left; those that are."""
    deadline_s = time.monotonic() + SPREAD_S
    while (left := what()) and time.monotonic() < deadline_s:
        gevent.sleep(LOOK_S)
    return left
