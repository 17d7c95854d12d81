"""Each host has a key in etcd v3, PREFIX/ID, with a lease: it goes when nobody renews it.

Asked by the JSON gateway of any endpoint that answers (https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway): POST of JSON, keys
and values in base64, numbers of 64 bits as text.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

from mesh.discovery import FOUND_MAX, Found
from node.config import Config
from node.discovery.board import ANSWER_S, BoardError, ttl_s

ANSWER_BYTES_MAX = 4 << 20


class Etcd:
    def __init__(self, config: Config) -> None:
        self._endpoints = [each.rstrip("/") for each in config.discovery.etcd]
        self._prefix = config.discovery.etcd_prefix.rstrip("/") + "/"
        self._ttl_s = math.ceil(ttl_s(config))
        self._lease = ""
        # no proxy of the environment: etcd is of our own network
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def announce(self, own: Found) -> None:
        if not self._lease or not self._renewed():
            self._lease = str(self._ask("lease/grant", TTL=self._ttl_s)["ID"])
        self._ask("kv/put", key=_text(self._prefix + own.node_id), value=_text(own.to_json()), lease=self._lease)

    def _renewed(self) -> bool:
        answer = self._ask("lease/keepalive", ID=self._lease)
        return int(answer.get("result", {}).get("TTL", 0)) > 0  # an expired one has none

    def look(self) -> list[Found]:
        end = self._prefix[:-1] + chr(ord("/") + 1)  # the first key behind all that begin with the prefix
        answer = self._ask("kv/range", key=_text(self._prefix), range_end=_text(end), limit=FOUND_MAX)
        values = (base64.b64decode(each.get("value", "")) for each in answer.get("kvs", []))
        return [found for value in values if (found := Found.from_json(value)) is not None]

    def withdraw(self, own: Found) -> None:
        if self._lease:
            with suppress(BoardError):
                self._ask("lease/revoke", ID=self._lease)

    def _ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        """The answer of the first endpoint that gives one; it is asked first from then on."""
        troubles = []
        for endpoint in list(self._endpoints):
            request = urllib.request.Request(
                f"{endpoint}/v3/{method}", json.dumps(arguments).encode(), {"Content-Type": "application/json"}
            )
            try:
                with self._opener.open(request, timeout=ANSWER_S) as response:
                    answer = json.loads(response.read(ANSWER_BYTES_MAX))
                if isinstance(answer, dict) and answer.keys() & {"header", "result"}:
                    self._endpoints.remove(endpoint)
                    self._endpoints.insert(0, endpoint)
                    return answer
                troubles.append(f"{endpoint}: not the answer of etcd")
            except (OSError, http.client.HTTPException, ValueError) as error:
                troubles.append(f"{endpoint}: {_cause(error)}")
        raise BoardError(f"etcd: no endpoint answers: {'; '.join(troubles)}")


def _cause(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.read(200).decode(errors='replace')}"
    return str(error.reason) if isinstance(error, urllib.error.URLError) else str(error) or type(error).__name__


def _text(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
