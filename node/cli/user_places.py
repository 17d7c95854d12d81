"""Where `mqnode users` finds users: in the password file of this host, or in the store of all hosts, through the admin API."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.options import Unusable, load_config
from node.cli.output import printable

if TYPE_CHECKING:
    from node.auth.passwords import Password
    from node.auth.users import User
    from node.config import Config

_WAITS = 'They are in force once auth.password_file = "cluster" is in the configuration of each host, from its next start on.'


def place(config_path: str) -> InFile | InCluster:
    """As the configuration says. Raises Unusable."""
    from node.config.keys import CLUSTER

    config = load_config(config_path)
    if not config.auth.password_file:
        raise Unusable(
            f"{printable(config_path)}: auth.password_file is not set, so there are no users and no place for them. "
            'Write, for example, under [auth]: password_file = "/etc/mqnode/users" (or "cluster": the same users on all '
            "hosts); add the first user; then restart the host."
        )
    return InCluster(config_path, config) if config.auth.password_file == CLUSTER else InFile(config)


class InFile:
    """Raises UserError, ConfigError, OSError."""

    last_words = "A running host takes it over with: mqnode reload"

    def __init__(self, config: Config) -> None:
        self._config, self._path = config, Path(config.auth.password_file)

    def all(self) -> list[User]:
        from node.auth import users

        return users.list_users(self._path)

    def add(self, user: str, password: Password) -> None:
        from node.auth import users

        is_new = not self._path.exists()
        users.add_user(self._path, user, password, self._config.auth.scram)
        if is_new:
            self._give_to_host()

    def change_password(self, user: str, password: Password) -> None:
        from node.auth import users

        users.change_password(self._path, user, password)

    def check_deletable(self, user: str) -> None:
        from node.auth import users

        users.check_deletable(self._path, user)

    def delete(self, user: str) -> None:
        from node.auth import users

        users.delete_user(self._path, user)

    def _give_to_host(self) -> None:
        """Root made the file, but the host must be able to read it."""
        data_dir = Path(self._config.node.data_dir)
        if os.geteuid() == 0 and data_dir.exists():
            owner = data_dir.stat()
            os.chown(self._path, owner.st_uid, owner.st_gid)


class InCluster:
    """A password is hashed here and leaves this process as a hash only. Raises UserError, ClickException."""

    def __init__(self, config_path: str, config: Config) -> None:
        self._config_path, self._config = config_path, config
        self.last_words = ""

    def all(self) -> list[User]:
        from node.auth.users import User
        from node.cli.api import Api

        with Api(self._config_path) as api:
            return [User(each["user"], each["hash"], each["scram"]) for each in api.get("v1", "users")]

    def add(self, user: str, password: Password) -> None:
        from node.auth.users import make_line

        self.put(
            [make_line(user, password, self._config.auth.scram)], True, f"To change it: mqnode users passwd {user}"
        )

    def change_password(self, user: str, password: Password) -> None:
        from node.auth.users import make_line

        self.put([make_line(user, password, self._find(user).scram)], False, "")

    def check_deletable(self, user: str) -> None:
        self._find(user)

    def delete(self, user: str) -> None:
        from node.cli.api import Api

        with Api(self._config_path) as api:
            self._say(api.delete("v1", "users", user))

    def put(self, lines: list[str], is_new: bool | None, remedy: str) -> int:
        """How many users these are."""
        from node.cli.api import Api

        with Api(self._config_path) as api:
            answer = api.post("v1", "users", content={"lines": lines, "is_new": is_new})
        if "error" in answer:
            raise click.ClickException(f"{printable(answer['error'])}. {printable(remedy)}")
        self._say(answer)
        return int(answer["count"])

    def _say(self, answer: Any) -> None:
        self.last_words = "It holds on all hosts." if answer["in_force"] else _WAITS

    def _find(self, user: str) -> User:
        from node.auth.users import UserError

        for each in self.all():
            if each.name == user:
                return each
        raise UserError(f"There is no user {user}. To see who there is: mqnode users list")
