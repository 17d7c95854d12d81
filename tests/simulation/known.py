"""Seeds that show bugs which are known: each is expected to fail, until its bug is mended."""

from __future__ import annotations

BUGS = {
    "moved twice": "an inbox entry is queued by the owner that died and by who took over: no identity makes them one",
    "clock": "a local retained message overwrites one that was received later by another host",
    "snapshot": "a snapshot does not say which keys are gone",
    "late put": "with three hosts a deletion by one arrives before the put by another, and the put stays for ever",
    "late hand-over": "a session is handed over, or granted, after it was taken by or given to another",
    "packet id": "a packet id released on one side of a cut comes back from the other: the next message with it is dropped",
    "living reset": "RESET undoes commits of a keeper that lives, whose acknowledgements are then released",
    "unknown": "not looked into yet",
}

TWO_HOSTS = {
    **dict.fromkeys([36, 144, 212, 240, 308], "moved twice"),
    **dict.fromkeys([8], "clock"),
    **dict.fromkeys([24, 228, 264, 324, 328, 356, 384], "snapshot"),
    **dict.fromkeys([5, 29, 33, 53, 69, 81, 193, 197, 225, 233, 297, 333, 361, 365], "snapshot"),
    **dict.fromkeys([273, 1256], "late hand-over"),
    **dict.fromkeys([113, 145, 709], "packet id"),
    **dict.fromkeys([829], "living reset"),
    **dict.fromkeys([213, 313, 753, 956, 1349], "unknown"),
}
