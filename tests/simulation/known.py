"""Seeds that show bugs which are known: each is expected to fail, until its bug is mended."""

from __future__ import annotations

BUGS: dict[str, str] = {
    "body": "a host takes a commit before those of a host that is gone for it: an entry moved there has no body here",
}

KNOWN: dict[int, str] = {1003: "body"}  # seed -> name of its bug
