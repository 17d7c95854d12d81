"""What root can read of a configuration, and the user of the service cannot: for `mqnode config check`, which root runs too.

The service's user is the owner of data_dir or, where that is not there yet, user mqnode. The look is taken with that user's
rights; nobody is asked where root itself is the user, or may not become another one (a container).
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

from node.config import Config
from node.config.files import named_files

_LOOK = 'for path; do if [ -d "$path" ]; then [ -x "$path" ]; else [ -r "$path" ]; fi || printf "%s\\0" "$path"; done'


def unreadable(config_path: str, config: Config) -> list[str]:
    """A warning for each file, or folder above it, in the way of the service."""
    user = _service_user(Path(config.node.data_dir))
    if os.geteuid() != 0 or user is None or user.pw_uid == 0:
        return []
    named = [config_path, config.discovery.secret_file, *(path for _, path, _ in named_files(config))]
    files = dict.fromkeys(filter(None, named))
    ways = {file: [*reversed(Path(file).resolve().parents), Path(file).resolve()] for file in files}
    closed = _closed(user, {step for way in ways.values() for step in way})
    obstacles = {next((step for step in way if step in closed), None): file for file, way in ways.items()}
    return [_warning(user, step, file) for step, file in obstacles.items() if step is not None]


def _service_user(data_dir: Path) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(data_dir.stat().st_uid) if data_dir.exists() else pwd.getpwnam("mqnode")
    except KeyError:
        return None


def _closed(user: pwd.struct_passwd, paths: Iterable[Path]) -> set[Path]:
    """Files that the user cannot read, folders that it cannot enter."""
    groups = os.getgrouplist(user.pw_name, user.pw_gid)
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", _LOOK, "sh", *map(str, paths)], stdout=subprocess.PIPE, cwd="/",
            user=user.pw_uid, group=user.pw_gid, extra_groups=groups,
        )  # fmt: skip
    except PermissionError:
        return set()
    return {Path(os.fsdecode(path)) for path in done.stdout.split(b"\0") if path}


def _warning(user: pwd.struct_passwd, step: Path, file: str) -> str:
    name, at = user.pw_name, shlex.quote(str(step))
    what, remedy = f"read {file}", f"chown {name} {at}"
    if step.is_dir():
        group = _group(user.pw_gid)
        what, remedy = f"enter {step}, so not read {file}", f"chgrp {group} {at} && chmod g+x {at}"
    return f"user {name}, as whom the service runs, cannot {what}: the service would not start. Run: {remedy}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:  # it has no name; its number does as well
        return str(gid)
