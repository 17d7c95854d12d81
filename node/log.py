"""Logs: one line an event on stderr, JSON or text, and the access log. Fields only: no value can forge another line (S23)."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

import msgspec
import structlog

from node.config import Log

_access_fields: dict[str, Any] | None = None


def setup(config: Log, process_name: str) -> None:
    """Everything that this process logs from now on, through structlog or the standard library."""
    global _access_fields
    level = logging.getLevelName(config.level.upper())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        lambda _, __, event: {"process": process_name, **event},
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(
            serializer=lambda event, **_: msgspec.json.encode(event, enc_hook=str).decode()
        )
        if config.format == "json"
        else structlog.processors.KeyValueRenderer(key_order=["time", "level", "process", "event"])
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    _access_fields = {"level": "info", "process": process_name, "log": "access"} if config.access else None


def logger(name: str, **fields: Any) -> Any:
    return structlog.get_logger(source=name, **fields)


def access(event: str, **fields: Any) -> None:
    """One line of the access log."""
    if _access_fields is not None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        os.write(2, msgspec.json.encode({"time": stamp, **_access_fields, "event": event, **fields}) + b"\n")
