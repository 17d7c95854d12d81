"""Logs: one line an event on stderr, JSON or text, and the access log. Fields only: no value can forge another line (S23).

A line of text is `time level process event key=value …`; a value that holds more than names and addresses do is quoted.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from node.config import Log

_Render = Callable[[dict[str, Any]], str]
_PLAIN = re.compile(r"[\w.:/@%+*#$-]+", re.ASCII)
_FIRST = ("time", "level", "process", "event")
_SAID = ("source", "worker", "log")  # by the name of the process, or the event
_access_fields: dict[str, Any] | None = None
_render: _Render


def to_json(event: dict[str, Any]) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def to_text(event: dict[str, Any]) -> str:
    rest = (f"{key}={_value(value)}" for key, value in event.items() if key not in _FIRST and key not in _SAID)
    return " ".join([*(_value(event[key]) for key in _FIRST), *rest])


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_value, value)) or "-"
    text = "-" if value is None else str(value)
    return text if _PLAIN.fullmatch(text) else repr(text)


class _Formatter(logging.Formatter):
    def __init__(self, process_name: str) -> None:
        super().__init__()
        self._process_name = process_name

    def format(self, record: logging.LogRecord) -> str:
        event = {"time": _now(), "level": record.levelname.lower(), "process": self._process_name}
        event |= {"event": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return _render(event)


class Logger:
    """Events with fields."""

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self._logger = logging.getLogger(f"mqnode.{name}")
        self._fields = {"source": name, **fields}

    def info(self, event: str, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields)

    def critical(self, event: str, **fields: Any) -> None:
        self._log(logging.CRITICAL, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error, with the trace of the exception that is being handled."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(self, level: int, event: str, fields: dict[str, Any], exc_info: bool = False) -> None:
        self._logger.log(level, event, extra={"fields": self._fields | fields}, exc_info=exc_info)


def setup(config: Log, process_name: str) -> None:
    """Everything that this process logs from now on, whichever library does."""
    global _access_fields, _render
    level = logging.getLevelName(config.level.upper())
    _render = to_json if config.format == "json" else to_text
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(process_name))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("websockets").setLevel(max(level, logging.WARNING))  # of each connection the access log tells
    _access_fields = {"level": "info", "process": process_name, "log": "access"} if config.access else None


def logger(name: str, **fields: Any) -> Logger:
    return Logger(name, fields)


def access(event: str, **fields: Any) -> None:
    """One line of the access log."""
    if _access_fields is not None:
        line = _render({"time": _now(), **_access_fields, "event": event, **fields})
        os.write(2, line.encode() + b"\n")


def _now() -> str:
    now_ms = time.time_ns() // 1_000_000
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ms // 1000)) + f".{now_ms % 1000:03d}Z"
