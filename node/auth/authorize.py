"""May this client publish, subscribe or receive that: the one place where all ways of a message ask (S14).

Owns the rules in force, their reload, and two bounded caches. With an ACL file, what no rule grants is denied. Without
one, everything is allowed but publishing to topics that begin with `$`: these are the broker's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from node.auth import acl
from node.auth.acl import NO_RULES, READ, WRITE, Rule, Rules
from node.auth.client_rules import ClientRules
from node.auth.language import split_filter
from node.config import Auth
from node.config.keys import CLUSTER

Action = Literal["publish", "subscribe", "receive"]
CLIENTS_MAX, DECISIONS_MAX = 4096, 16_384  # of the caches; a full one is emptied
_CACHED_NAME_MAX = 256  # long topics are decided anew each time: the cache is bounded in bytes, too


@dataclass(frozen=True, slots=True)
class Decision:
    """What `mqnode acl test` shows."""

    allowed: bool
    reason: str
    rule: Rule | None  # the one that decided, with its line
    withheld: tuple[Rule, ...] = ()  # denies that hold back some topics of a granted filter at delivery


class Authorizer:
    """Raises AuthFileError if `auth.acl_file` cannot be used."""

    def __init__(self, auth: Auth) -> None:
        self._clients: dict[tuple[str | None, str | None], ClientRules] = {}
        self._decisions: dict[tuple[Action, str | None, str, str, int, bool], bool] = {}
        self._path = auth.acl_file
        self._rules: Rules | None = NO_RULES
        self.version = 0
        self.reload()

    @property
    def allows_all(self) -> bool:
        """No rules: only publishing to `$…` is denied."""
        return self._rules is None

    def reload(self) -> None:
        """Read the file anew. Raises AuthFileError; then the old rules stay in force. Those of the cluster come by `use`."""
        if self._path != CLUSTER:
            self.use(acl.load(self._path) if self._path else None)

    def use(self, rules: Rules | None) -> None:
        """From now on."""
        self._rules = rules
        self._clients.clear()
        self._decisions.clear()
        self.version += 1

    def authorize(
        self, action: Action, user: str | None, client_id: str, topic_or_filter: str, qos: int, retain: bool
    ) -> bool:
        key = (action, user, client_id, topic_or_filter, qos, retain)
        allowed = self._decisions.get(key)
        if allowed is None:
            allowed = self._decide(action, user, client_id, topic_or_filter, qos, retain).allowed
            if len(topic_or_filter) <= _CACHED_NAME_MAX:
                if len(self._decisions) >= DECISIONS_MAX:
                    self._decisions.clear()
                self._decisions[key] = allowed
        return allowed

    def authorize_author(self, author: str | None, topic: str, qos: int) -> bool:
        """Might `author`, of whom only the user name is known, still publish that retained message?"""
        return self._decide("publish", author, None, topic, qos, True).allowed

    def explain(
        self, action: Action, user: str | None, client_id: str, topic_or_filter: str, qos: int, retain: bool
    ) -> Decision:
        """The same decision with its reasons."""
        decision = self._decide(action, user, client_id, topic_or_filter, qos, retain)
        if self._rules is None or action != "subscribe" or not decision.allowed:
            return decision
        withheld = self._client(user, client_id).withheld(split_filter(_unshared(topic_or_filter)))
        return Decision(True, decision.reason, decision.rule, tuple(withheld))

    def _decide(
        self, action: Action, user: str | None, client_id: str | None, name: str, qos: int, retain: bool
    ) -> Decision:
        if action != "subscribe" and (not name or "+" in name or "#" in name):
            return Decision(False, "a topic is not empty and holds no wildcards", None)
        if self._rules is None:
            if action == "publish" and name.startswith("$"):
                return Decision(False, "topics that begin with $ are the broker's", None)
            return Decision(True, "no acl_file is configured", None)
        client = self._client(user, client_id)
        if action == "subscribe":
            try:
                filter = split_filter(_unshared(name))
            except ValueError as error:
                return Decision(False, str(error), None)
            allowed, rule = client.judge_filter(filter, READ, qos)
        else:
            access = WRITE if action == "publish" else READ
            allowed, rule = client.judge_topic(tuple(name.split("/")), access, qos, retain)
        if allowed:
            return Decision(True, "granted by this rule", rule)
        return Decision(False, "denied by this rule" if rule else "no rule grants it", rule)

    def _client(self, user: str | None, client_id: str | None) -> ClientRules:
        assert self._rules is not None
        key = (user, client_id)
        client = self._clients.get(key)
        if client is None:
            if len(self._clients) >= CLIENTS_MAX:
                self._clients.clear()
            client = self._clients[key] = ClientRules(self._rules, user, client_id)
        return client


def _unshared(filter: str) -> str:
    """The filter of the shared subscription $share/GROUP/FILTER."""
    if not filter.startswith("$share/"):
        return filter
    return filter.removeprefix("$share/").partition("/")[2]
