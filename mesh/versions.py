"""What hosts of different releases have in common. Pure. Two releases in a row work together; who changes a message looks here.

LOWEST to HIGHEST: the versions of what is said between hosts that this release speaks, also to those who knock and join. A link
    uses the highest that both sides speak; without one there is no link. HIGHEST rises with a message that the release before
    cannot read, LOWEST one release later.
LEVEL: what this release understands, told in its record of the table of members. The cluster is at the level of its oldest
    host, and nobody says or stores what needs a higher one: that begins when the last host is upgraded.
"""

from __future__ import annotations

LOWEST = HIGHEST = 1
LEVEL = 2
KEYS_ROTATE = 1  # the level for a record with two keys
SETTINGS = 2  # for what is set once for all hosts, in the store


def incompatible(lowest: int, highest: int, release: str = "", ours: str = "") -> str:
    """Why a host that speaks these versions cannot be understood; empty if it can."""
    if lowest <= HIGHEST and highest >= LOWEST:
        return ""
    return (
        f"it {_is(release)}speaks versions {lowest} to {highest} between hosts, this host {_is(ours)}speaks {LOWEST} to {HIGHEST}: "
        f"upgrade the older one, by one release at a time ({'the other' if highest < LOWEST else 'this'} host)"
    )


def common(highest: int) -> int:
    """The version to speak with a host that is not incompatible."""
    return min(highest, HIGHEST)


def _is(release: str) -> str:
    return f"is mqnode {release} and " if release else ""
