"""Users and rules that are the cluster's, from the store into force: at the start, and when the keeper says that they changed.

Only what is new is parsed. What cannot be used grants nothing: such a user cannot log in, and bad rules leave those in force that
were, at the start none, which grant nothing either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.auth import acl
from node.auth.files import AuthFileError, to_lines
from node.auth.passwords import Entry, Malformed, parse_line
from node.config.keys import CLUSTER

if TYPE_CHECKING:
    from node.worker.worker import Worker

_RULES = "the rules of the cluster"  # in the place of a file, in errors


class Settings:
    def __init__(self, worker: Worker) -> None:
        self._worker, self._auth = worker, worker.config.auth
        self._users: dict[str, tuple[str, str, Entry]] = {}  # name of the setting -> line, user, entry
        self._rules: str | None = None

    def take_over(self) -> None:
        """What the store has now. Connections made with what holds no longer are ended, as by a reload."""
        worker = self._worker
        if worker.reader is None:  # it is not welcome yet: then it does this
            return
        if self._auth.acl_file == CLUSTER:
            self._take_rules(dict(worker.reader.settings("acl")).get("acl"))
        if self._auth.password_file == CLUSTER:
            self._take_users(worker.reader.settings("user/"))

    def _take_rules(self, text: str | None) -> None:
        if text == self._rules:
            return
        self._rules = text
        try:
            self._worker.authorizer.use(
                acl.NO_RULES if text is None else acl.parse(to_lines(text.encode(), _RULES, ""), _RULES)
            )
        except AuthFileError as error:
            self._worker.log.error(
                "rules_unusable", cause=str(error), effect="those before stay in force", next="mqnode acl load FILE"
            )
        self._worker.apply_rules()

    def _take_users(self, found: list[tuple[str, str]]) -> None:
        users = {}
        for name, line in found:
            if name in self._users and self._users[name][0] == line:
                users[name] = self._users[name]
                continue
            try:
                users[name] = (line, *parse_line(line))
            except Malformed as error:
                self._worker.log.error(
                    "user_unusable", user=name.removeprefix("user/"), cause=str(error), effect="it cannot log in",
                    next="mqnode users passwd USER",
                )  # fmt: skip
        if users != self._users:
            self._users = users
            self._worker.authenticator.use({user: entry for _, user, entry in users.values()})
            self._worker.ends.end_users(self._worker.authenticator.revoked)
