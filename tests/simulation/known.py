"""Seeds that show bugs which are known: each is expected to fail, until its bug is mended."""

from __future__ import annotations

BUGS = {
    "clock": "a local retained message overwrites one that was received later by another host",
    "left behind": "after a snapshot, which does not say which keys are gone, or a late one, entries stay at one host",
    "late put": "with three hosts a deletion by one arrives before the put by another, and the put stays for ever",
    "lost": "acknowledged and not delivered: a packet id that comes back, a late hand-over, or a cause not found yet",
    "stuck": "the hosts do not come in sync again: not looked into yet",
}

TWO_HOSTS = {
    **dict.fromkeys([8, 45, 73, 101], "clock"),
    **dict.fromkeys([33, 69, 81, 104, 113, 136, 161, 193, 197, 209, 228, 236, 240, 241, 244, 333, 353], "left behind"),
    **dict.fromkeys([356, 361, 365, 377, 709, 956], "left behind"),
    **dict.fromkeys([1, 237, 389, 1256], "lost"),
    **dict.fromkeys([53, 181], "stuck"),
}
