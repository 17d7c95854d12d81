"""Seeds that show bugs which are known: each is expected to fail, until its bug is mended."""

from __future__ import annotations

BUGS: dict[str, str] = {
    "apart": "three hosts, several faults within seconds: the stores differ for a while, and the digests repair them",
}

KNOWN: dict[int, str] = {1795: "apart", 1979: "apart"}  # seed -> name of its bug
