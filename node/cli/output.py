"""How answers reach people and programs: tables and fields cut to the terminal, JSON with stable keys.

Names come from clients, so nothing of them reaches a terminal raw: what is not printable is shown escaped (\\x1b, \\n).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

import click

_CELL_MIN, _GAP = 6, 2


def printable(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "-" if value is None else "yes" if value else "no"
    text = str(value)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))


def show_json(value: Any) -> None:
    """A list has one element a line. ASCII only: terminals obey control characters above 0x7F, too."""
    if isinstance(value, list):
        lines = ",\n".join(map(json.dumps, value))
        text = f"[\n{lines}\n]" if value else "[]"
    else:
        text = json.dumps(value, indent=2)
    click.echo(text.replace("\x7f", "\\u007f"))


def show_table(headers: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """Columns as wide as they need; on a narrow terminal the widest are cut, or each row gets lines of its own."""
    if not rows:
        click.echo(empty)
        return
    cells = [[printable(each) for each in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(headers, *cells, strict=True)]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - _GAP * (len(widths) - 1)
        if room < sum(min(width, _CELL_MIN) for width in widths):
            show_records([list(zip(headers, row, strict=True)) for row in rows])
            return
        while sum(widths) > room:
            widths[widths.index(max(widths))] -= 1
    right = [all(isinstance(each, int | None) for each in column) for column in zip(*rows, strict=True)]
    click.echo(coloured(_line(headers, widths, right), bold=True))
    for row in cells:
        click.echo(_line(row, widths, right))


def _line(cells: Sequence[str], widths: list[int], right: list[bool]) -> str:
    padded = []
    for text, width, flush in zip(cells, widths, right, strict=True):
        if _width(text) > width:
            while _width(text) > width - 1:
                text = text[:-1]
            text += "…"
        blank = " " * (width - _width(text))
        padded.append(blank + text if flush else text + blank)
    return (" " * _GAP).join(padded).rstrip()


def _width(text: str) -> int:
    """In columns of a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text)


def show_fields(fields: Sequence[tuple[str, object]]) -> None:
    """One a line: its name, its value."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        click.echo(f"{coloured(name.ljust(width), bold=True)}  {printable(value)}")


def show_records(records: Sequence[Sequence[tuple[str, object]]]) -> None:
    for number, fields in enumerate(records):
        if number:
            click.echo()
        show_fields(fields)


def coloured(text: str, **style: Any) -> str:
    """https://no-color.org; click itself leaves pipes and files without colours."""
    return text if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else click.style(text, **style)


def duration(seconds: float) -> str:
    """The two largest units: "3 d 4 h", "12 s"."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def expiry(seconds: int) -> str:
    return "never" if seconds == 0xFFFFFFFF else duration(seconds)


def size(count: float) -> str:
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def counted(count: int, noun: str) -> str:
    """ "1 session", "2 sessions"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
