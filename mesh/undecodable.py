"""What msgspec raises for bytes that are no such message: they may come from anybody."""

from __future__ import annotations

import msgspec

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
