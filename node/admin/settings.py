"""The resources of what is set once for all hosts: users, access rules and keys of the configuration.

All is checked here, before it is stored. A change is answered when it is durable, as everything that is acknowledged, and in force
at this host; the others take it over as it reaches them. No hash is ever answered.
"""

from __future__ import annotations

import os
from typing import Any

import falcon
import msgspec
from msgspec import Struct

from mesh import versions
from node.admin.answer import answer, body
from node.admin.host import Host
from node.auth import acl
from node.auth.files import AuthFileError, to_lines
from node.auth.passwords import Malformed, parse_line
from node.auth.users import User, describe
from node.config import ConfigError, read, settable
from node.config.keys import CLUSTER
from node.config.show import values
from node.keeper.settings import CONFIG, Value, values_of
from node.preflight import check_loaded
from node.process import CONFIG_FILE

RULES_BYTES_MAX = 1 << 20


class NewUsers(Struct, forbid_unknown_fields=True):
    """`lines` of a password file. `is_new`: none of them may be there (True), or all must be (False)."""

    lines: list[str]
    is_new: bool | None = None


class NewRules(Struct, forbid_unknown_fields=True):
    text: str


class NewValue(Struct, forbid_unknown_fields=True):
    """`text` None: the cluster sets the key no longer. `by`: who wants that."""

    key: str
    text: str | None
    by: str = ""


class SettingsRoutes:
    def __init__(self, host: Host) -> None:
        self.host = host

    def _put(self, settings: dict[str, str | None], is_new: bool | None = None) -> list[str]:
        """What is there, or is not, against `is_new`; then nothing was changed."""
        if self.host.config.interconnect.bind and self.host.ask_interconnect("nodes")["level"] < versions.SETTINGS:
            raise falcon.HTTPServiceUnavailable(
                description="a host of the cluster is of an older release, which would not keep it: nothing was changed. "
                "Upgrade it first; mqnode cluster nodes shows the releases"
            )
        wrong: list[str] = self.host.ask_keeper("settings_put", settings=settings, is_new=is_new)
        self.host.ask_every_worker("settings")
        return wrong

    # -- users ------------------------------------------------------------------------------------------------------------

    def on_get_users(self, request: falcon.Request, response: falcon.Response) -> None:
        found = [_describe(*each) for each in self.host.read(lambda reader: reader.settings("user/"))]
        answer(response, [{"user": each.name, "hash": each.hash, "scram": each.scram} for each in found])

    def on_post_users(self, request: falcon.Request, response: falcon.Response) -> None:
        new = body(request, NewUsers)
        lines: dict[str, str | None] = {}
        for number, line in enumerate(new.lines, 1):
            try:
                user, _ = parse_line(line)
            except Malformed as error:
                raise falcon.HTTPBadRequest(description=f"line {number}: {error}: nothing was changed") from error
            if f"user/{user}" in lines:
                raise falcon.HTTPBadRequest(description=f"user {user} comes twice: nothing was changed")
            lines[f"user/{user}"] = line
        if wrong := self._put(lines, new.is_new):
            names = ", ".join(name.removeprefix("user/") for name in wrong[:10]) + (" …" if len(wrong) > 10 else "")
            if new.is_new:
                raise falcon.HTTPConflict(description=f"there is a user {names} already: nothing was changed")
            raise falcon.HTTPNotFound(description=f"there is no user {names}: nothing was changed")
        answer(response, {"count": len(lines), "in_force": self.host.config.auth.password_file == CLUSTER})

    def on_delete_user(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        if self._put({f"user/{name}": None}, is_new=False):
            raise falcon.HTTPNotFound(description=f"there is no user {name}")
        answer(response, {"deleted": name, "in_force": self.host.config.auth.password_file == CLUSTER})

    # -- rules ------------------------------------------------------------------------------------------------------------

    def on_get_acl(self, request: falcon.Request, response: falcon.Response) -> None:
        found: dict[str, str] = dict(self.host.read(lambda reader: reader.settings("acl")))
        answer(response, self._rules(found.get("acl")))

    def on_post_acl(self, request: falcon.Request, response: falcon.Response) -> None:
        text = body(request, NewRules).text
        try:
            if len(text.encode()) > RULES_BYTES_MAX:
                raise falcon.HTTPBadRequest(
                    description=f"rules of more than {RULES_BYTES_MAX} bytes: nothing was changed"
                )
            acl.parse(to_lines(text.encode(), "rules", "Nothing was changed"), "rules", "Nothing was changed")
        except AuthFileError as error:
            raise falcon.HTTPBadRequest(description=str(error)) from error
        self._put({"acl": text})
        answer(response, self._rules(text))

    # -- keys of the configuration ----------------------------------------------------------------------------------------

    def on_post_config(self, request: falcon.Request, response: falcon.Response) -> None:
        """Checked as by a start of this host, with all that the cluster has set so far."""
        new = body(request, NewValue)
        path = os.environ.get(CONFIG_FILE)
        try:
            value = None if new.text is None else settable.parse(new.key, new.text)
            key = settable.key_of(new.key)
            known = self._values()
            if value is None and new.key not in known:
                raise falcon.HTTPNotFound(
                    description=f"{new.key} is not set for all hosts: nothing was changed. What is: mqnode config show --origin"
                )
            wanted = {name: each for name, each in {**known, new.key: value}.items() if each is not None}
            before, after = read(path, cluster=known), read(path, cluster=wanted)
            if why := dict(after.unusable).get(new.key):
                raise ConfigError(why)
            warnings = check_loaded(after)
            if warnings:
                known_before = check_loaded(before)
                warnings = [each for each in warnings if each not in known_before]
        except ConfigError as error:
            text = str(error).removeprefix("cluster: ")
            if "nothing was changed" not in text:
                text += " Nothing was changed."
            raise falcon.HTTPBadRequest(description=text) from error
        by = f"{new.by}@{self.host.config.node.name}"
        self._put({f"{CONFIG}{new.key}": msgspec.json.encode(Value(value, by)).decode()})
        origin = after.places.origin(key)
        answer(response, {
            "key": new.key, "before": values(before.config)[key], "after": values(after.config)[key], "by": by,
            "overridden_here_by": origin if value is not None and origin != "cluster" else None,
            "warnings": warnings,
        })  # fmt: skip

    def _values(self) -> dict[str, Any]:
        """What the cluster has set."""
        found = self.host.read(lambda reader: reader.settings(CONFIG))
        return {name: each.value for name, each in values_of(found).items() if each.value is not None}

    def _rules(self, text: str | None) -> dict[str, Any]:
        """`text`: None before there were any."""
        return {"text": text, "in_force": self.host.config.auth.acl_file == CLUSTER}


def _describe(name: str, line: str) -> User:
    try:
        return describe(*parse_line(line))
    except Malformed:  # as no release wrote it: nobody gets in by it
        return User(name.removeprefix("user/"), "unusable", False)
