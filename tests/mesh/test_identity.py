"""identity.json: made once, private, whole or not there."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from mesh.identity import FILE_NAME, IdentityError, load_or_create


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    made = load_or_create(path)
    assert load_or_create(path) == made
    assert (len(made.node_id), len(made.public_key), len(made.secret_key)) == (16, 40, 40)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [FILE_NAME]
    assert made.secret_key not in repr(made)


def test_processes_that_make_it_at_once_get_the_same(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        made = pool.map(load_or_create, [tmp_path / FILE_NAME] * 12, chunksize=1)
    assert len({each.node_id for each in made}) == 1
    assert [each.name for each in tmp_path.iterdir()] == [FILE_NAME]


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_or_create(path)


@pytest.mark.parametrize("damage", ["empty", "cut", "other key", "other field"])
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, damage: str) -> None:
    path = tmp_path / FILE_NAME
    made = load_or_create(path)
    other = load_or_create(tmp_path / "other.json")
    text = path.read_text()
    path.write_text(
        {
            "empty": "",
            "cut": text[:-20],
            "other key": text.replace(made.public_key, other.public_key),
            "other field": text.replace("public_key", "key"),
        }[damage]
    )
    damaged = path.read_text()
    with pytest.raises(IdentityError, match="Restore the file"):
        load_or_create(path)
    assert path.read_text() == damaged
