"""`mqnode config check` by root, who can read everything: what the user of the service cannot is told, with the way out."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Command

NOBODY = pwd.getpwnam("nobody")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")


@pytest.fixture
def mqnode(folder: Path) -> Command:
    """Of a host whose data_dir is nobody's: rules that all may read, and a cluster secret for its owner only."""
    (folder / "data").mkdir(mode=0o700)
    os.chown(folder / "data", NOBODY.pw_uid, NOBODY.pw_gid)
    (folder / "keys").mkdir(mode=0o755)
    (folder / "acl").write_text("topic readwrite #\n")
    config = folder / "mqnode.toml"
    config.write_text(
        f'[node]\ndata_dir = "{folder}/data"\n[auth]\nacl_file = "{folder}/acl"\n'
        f'[interconnect]\nbind = "127.0.0.1:7001"\n'
        f'[discovery]\nmethod = "static"\nhosts = ["127.0.0.1:7001"]\nsecret_file = "{folder}/keys/secret"\n'
    )
    mqnode = Command(config)
    assert mqnode("cluster", "secret", "create", str(folder / "keys/secret")).returncode == 0
    folder.chmod(0o755)
    for each in (config, folder / "acl"):
        each.chmod(0o644)
    return mqnode


def warnings(mqnode: Command) -> list[str]:
    """They do not make it unusable: a container may run it as root."""
    answer = mqnode.json("config", "check")
    assert answer["usable"]
    return [each for each in answer["warnings"] if "user nobody" in each]


def follow(warning: str) -> None:
    subprocess.run(["sh", "-ec", warning.partition("Run: ")[2]], check=True, timeout=10)


def test_files_and_folders_that_the_service_cannot_read(mqnode: Command, folder: Path) -> None:
    (folder / "keys").chmod(0o700)
    (folder / "acl").chmod(0o600)
    found = warnings(mqnode)
    assert len(found) == 2
    for warning, text in zip(
        found, (f"enter {folder}/keys, so not read {folder}/keys/secret", f"read {folder}/acl"), strict=True
    ):
        assert text in warning
        follow(warning)
    [last] = warnings(mqnode)
    assert last.endswith(f"Run: chown nobody {folder}/keys/secret")
    follow(last)
    assert warnings(mqnode) == []


def test_a_host_of_root_itself(mqnode: Command, folder: Path) -> None:
    assert len(warnings(mqnode)) == 1
    os.chown(folder / "data", 0, 0)
    assert mqnode.json("config", "check")["warnings"] == []
