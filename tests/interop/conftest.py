"""One broker and its guests for all interoperability tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.hall import Hall, opened


@pytest.fixture(scope="package")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    with opened(tmp_path_factory.mktemp("tls")) as found:
        yield found
