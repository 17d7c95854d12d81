"""Seeds that show bugs which are known: each is expected to fail, until its bug is mended."""

from __future__ import annotations

BUGS: dict[str, str] = {}  # name -> what happens

KNOWN: dict[int, str] = {}  # seed -> name of its bug
