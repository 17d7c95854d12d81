"""Seeds that show bugs which are known: each is expected to fail, until its bug is mended."""

from __future__ import annotations

BUGS = {
    "apart": "three hosts, several faults within seconds: the stores differ for a while, and the digests repair them",
    "lost": "a message is acknowledged and does not reach a subscriber: its publisher changed sides during a cut",
    "twice": "two hosts take the session of a third one that died at once, and move the same entries: QoS 2 comes twice",
}

KNOWN = {527: "apart", 538: "twice", 553: "lost", 1423: "apart"}
