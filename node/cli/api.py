"""Asks the admin API of this host (node/admin/api.py): one connection a command, the token from its file, errors with a way out."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import quote, urlencode

import click
import msgspec

from node.admin.token import read_token, token_path
from node.cli.options import load_config
from node.cli.output import printable
from node.config import split_bind

TIMEOUT_S = 30.0
_LISTS = {"clients": "All of this host", **dict.fromkeys(("sessions", "retained", "users"), "All that there are")}
PAGE = 2500  # of a list; longer ones would hold up the workers that are asked for them


class NotFound(click.ClickException):
    """What was asked for is not there."""


class Api:
    """`with` closes the connection. Raises ClickException."""

    def __init__(self, config_path: str) -> None:
        self._config_path = config_path
        self._config = load_config(config_path)
        host, port = split_bind(self._config.admin.bind)
        self._link = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

    # -- questions --------------------------------------------------------------------------------------------------------

    def get(self, *path: str, **query: object) -> Any:
        """The decoded answer to GET /PATH[0]/PATH[1]…; the last part may hold anything."""
        return self._ask("GET", path, query)

    def delete(self, *path: str) -> Any:
        return self._ask("DELETE", path, {})

    def post(self, *path: str, content: Any = None, **query: object) -> Any:
        return self._ask("POST", path, query, content)

    def pages(self, *path: str, key: str, limit: int | None, **query: object) -> list[Any]:
        """The whole list, or its first `limit`; `key` names what the API continues behind."""
        found: list[Any] = []
        while True:
            wanted = PAGE if limit is None else min(PAGE, limit - len(found))
            page = self.get(*path, limit=wanted, after=found[-1][key] if found else "", **query)
            found += page
            if len(page) < wanted or len(found) == limit:
                return found

    def ask(self, method: str, *path: str, token: str = "", content: Any = None, **query: object) -> tuple[int, Any]:
        """Status and decoded body, whatever they are. Raises ClickException if nobody answers, or somebody else."""
        target = "/" + "/".join(quote(part, safe="") for part in path) + ("?" + urlencode(query) if query else "")
        try:
            self._link.request(
                method,
                target,
                None if content is None else msgspec.json.encode(content),
                {"Accept": "application/json", "Authorization": f"Bearer {token}"},
            )
            response = self._link.getresponse()
            answer = msgspec.json.decode(response.read(), type=dict[str, Any] | list[Any])
        except (OSError, http.client.HTTPException) as error:
            self._link.close()  # who asks again does so by a new connection
            raise click.ClickException(
                f"The admin API at {self._config.admin.bind} does not answer ({error or type(error).__name__}): "
                "nothing was asked or changed. Is the host running? Look with `systemctl status mqnode`, "
                f"start it with `systemctl start mqnode` or `mqnode start --config {printable(self._config_path)}`."
            ) from error
        except msgspec.DecodeError as error:
            raise click.ClickException(
                f"What answers at {self._config.admin.bind} does not speak as mqnode does: nothing was asked or changed. "
                "Is the port another program's? Set admin.bind to a free one and restart the host."
            ) from error
        return response.status, answer

    def is_ours(self) -> bool:
        """Does the host of this configuration answer, and not another one that has the same address? Raises as `ask` does."""
        return self.ask("GET", "v1", token=self._token())[0] != 401

    def _ask(self, method: str, path: tuple[str, ...], query: dict[str, object], content: Any = None) -> Any:
        status, answer = self.ask(method, *path, token=self._token(), content=content, **query)
        if status < 400 or status == 409:  # 409: it was done in part, the answer says what was not
            return answer
        text = printable(answer.get("error", answer) if isinstance(answer, dict) else answer)
        if status == 404:
            raise NotFound(f"{text}. {_LISTS[path[1]]}: mqnode {path[1]} list" if path[1] in _LISTS else text)
        if status == 400:
            raise click.ClickException(text)
        if status == 401:
            raise click.ClickException(
                f"The host at {self._config.admin.bind} does not take the token of {token_path(self._config)}: nothing "
                "was asked or changed. Is this the configuration that it was started with? Name it with --config FILE."
            )
        raise click.ClickException(f"The host answered: {text} (HTTP {status}). Look at it with: mqnode status")

    def _token(self) -> str:
        path = token_path(self._config)
        try:
            return read_token(path)
        except OSError as error:
            folder = ""
            if not path.is_absolute():
                folder = " in the folder where it was started, as node.data_dir is relative, and"
            raise click.ClickException(
                f"{path.absolute()}: the token of the admin API cannot be read ({error.strerror}): nothing was asked or "
                f"changed. The host makes it at its first start, for its own user: run this{folder} as that user, "
                "for example `sudo -u mqnode mqnode …`."
            ) from error
