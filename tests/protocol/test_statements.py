"""The table of conformance is true and current, and what no test shows yet is written down."""

from __future__ import annotations

from tests.protocol import table

WRITE = "run: python -m tests.protocol.table"


def test_the_page_is_current() -> None:
    assert table.PAGE.read_text("utf-8") == table.page(table.load()[0], table.marks()), WRITE


def test_each_mark_names_a_statement() -> None:
    assert not table.marks().keys() - table.load()[0].keys()


def test_each_statement_of_the_server_has_a_test() -> None:
    statements, missing = table.load()
    without = table.untested(statements, table.marks())
    assert not without - missing, "statements without a test"
    assert not missing - without, f"they have a test now; {WRITE}"
