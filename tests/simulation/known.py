"""Seeds that show bugs which are known: each is expected to fail, until its bug is mended."""

from __future__ import annotations

BUGS = {
    "order of records": "entries of a commit are queued before the session's record in it says whose queue it is",
    "moved twice": "an inbox entry is queued by the owner that died and by the host that took over: no identity makes them one",
    "worker's subscriptions": "a worker that outlives its keeper does not learn of subscriptions applied before its next welcome",
    "retained clock": "a local retained message overwrites one that was received later by another host",
    "snapshot": "a snapshot does not say which keys are gone",
    "late put": "with three hosts a deletion by one arrives before the put by another, and the put stays for ever",
    "unknown": "not looked into yet",
}

TWO_HOSTS = {
    **dict.fromkeys([4, 16, 28, 60, 100, 160, 240, 256, 296, 364, 368], "order of records"),
    **dict.fromkeys([8], "retained clock"),
    **dict.fromkeys([36, 144, 196, 212, 300, 308, 392], "moved twice"),
    **dict.fromkeys([112, 388], "worker's subscriptions"),
    **dict.fromkeys([228], "snapshot"),
    **dict.fromkeys([120, 312, 324, 356, 264], "unknown"),
    **dict.fromkeys([17, 33, 53, 69, 141, 225, 297, 333, 29, 81, 97, 197, 233, 241, 273, 145, 193], "unknown"),
    **dict.fromkeys([205, 357], "retained clock"),
    **dict.fromkeys([261, 365, 373], "unknown"),
}
