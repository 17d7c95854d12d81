"""Seeds that show bugs which are known: each is expected to fail, until its bug is mended."""

from __future__ import annotations

BUGS = {
    "record late": "entries of a commit are queued before the session's record in it says whose queue it is",
    "moved twice": "an inbox entry is queued by the owner that died and by who took over: no identity makes them one",
    "worker's table": "a worker that outlives its keeper misses subscriptions applied before its next welcome",
    "clock": "a local retained message overwrites one that was received later by another host",
    "snapshot": "a snapshot does not say which keys are gone",
    "late put": "with three hosts a deletion by one arrives before the put by another, and the put stays for ever",
    "branch": "Writer.own does not store the branch: after a restart numbers of the old owner are given again",
    "came back": "Directory.worker_came takes a client whose session was taken over while its keeper was away",
    "late hand-over": "a session is handed over, or granted, after it was taken by or given to another",
    "packet id": "a packet id released on one side of a cut comes back from the other: the next message with it is dropped",
    "living reset": "RESET undoes commits of a keeper that lives, whose acknowledgements are then released",
    "unknown": "not looked into yet",
}

TWO_HOSTS = {
    **dict.fromkeys([4, 16, 28, 60, 100, 160, 240, 256, 296, 364, 368], "record late"),
    **dict.fromkeys([36, 144, 196, 212, 300, 308, 392], "moved twice"),
    **dict.fromkeys([112, 388], "worker's table"),
    **dict.fromkeys([8, 205, 357], "clock"),
    **dict.fromkeys([120, 228, 264, 312, 324, 356], "snapshot"),
    **dict.fromkeys([17, 29, 33, 53, 69, 81, 97, 193, 197, 225, 233, 297, 333, 365], "snapshot"),
    **dict.fromkeys([261], "branch"),
    **dict.fromkeys([373], "came back"),
    **dict.fromkeys([273, 1256], "late hand-over"),
    **dict.fromkeys([145, 709], "packet id"),
    **dict.fromkeys([829], "living reset"),
    **dict.fromkeys([141, 241, 753, 872, 956], "unknown"),
}
