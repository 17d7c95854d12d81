"""The admin API: falcon resources over Host. GET /live, /ready and /metrics are open; the rest needs the bearer token.

Lists take `limit`, `after` and `match` (a glob). Names in paths are percent-encoded. Errors are JSON `{"error": …}`.
"""

from __future__ import annotations

import hmac
import time
from typing import Any
from urllib.parse import quote, unquote

import falcon
import msgspec

from node.admin import metrics
from node.admin.host import Host
from node.admin.link import LinkError
from node.core.wire import record_names

LIMIT_MAX = 10_000
OPEN_PATHS = ("/live", "/ready", "/metrics")


def make_app(host: Host, token: str) -> falcon.App:
    app = falcon.App(middleware=[_Token(token)])
    app.add_error_handler(LinkError, _unavailable)
    app.set_error_serializer(_serialize_error)
    resources = _Resources(host)
    for path, suffix in ROUTES.items():
        app.add_route(path, resources, suffix=suffix)
    return app


ROUTES = {
    "/live": "live",
    "/ready": "ready",
    "/metrics": "metrics",
    "/openapi.json": "openapi",
    "/v1/status": "status",
    "/v1/clients": "clients",
    "/v1/clients/{name}": "client",
    "/v1/sessions": "sessions",
    "/v1/sessions/{name}": "session",
    "/v1/retained": "retained",
    "/v1/retained/{name}": "retained_one",
    "/v1/topics/match": "match",
    "/v1/reload": "reload",
}


class _Token:
    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}"

    def process_request(self, request: falcon.Request, response: falcon.Response) -> None:
        if request.path in OPEN_PATHS:
            return
        given = request.get_header("Authorization") or ""
        if not hmac.compare_digest(given.encode(), self._expected.encode()):
            raise falcon.HTTPUnauthorized(description="the bearer token of admin.token_file is needed")


def _unavailable(request: Any, response: Any, error: Exception, parameters: Any) -> None:
    raise falcon.HTTPServiceUnavailable(description=str(error))


def _serialize_error(request: falcon.Request, response: falcon.Response, error: falcon.HTTPError) -> None:
    response.content_type = "application/json"
    response.data = msgspec.json.encode({"error": error.description or error.title})


def _answer(response: falcon.Response, value: Any) -> None:
    response.content_type = "application/json"
    response.data = msgspec.json.encode(value)


def _page(request: falcon.Request) -> dict[str, Any]:
    return {
        "limit": request.get_param_as_int("limit", min_value=1, max_value=LIMIT_MAX, default=100),
        "after": request.get_param("after", default=""),
        "match": request.get_param("match", default="*"),
    }


class _Resources:
    def __init__(self, host: Host) -> None:
        self.host = host

    def on_get_live(self, request: falcon.Request, response: falcon.Response) -> None:
        _answer(response, {"live": True})

    def on_get_ready(self, request: falcon.Request, response: falcon.Response) -> None:
        reasons = self.host.not_ready()
        response.status = falcon.HTTP_503 if reasons else falcon.HTTP_200
        _answer(response, {"ready": not reasons, "reasons": reasons})

    def on_get_metrics(self, request: falcon.Request, response: falcon.Response) -> None:
        response.content_type = "text/plain; version=0.0.4; charset=utf-8"
        response.data = metrics.text(self.host)

    def on_get_openapi(self, request: falcon.Request, response: falcon.Response) -> None:
        paths = {path: {} for path in ROUTES}
        for path, suffix in ROUTES.items():
            for method in ("get", "post", "delete"):
                if hasattr(self, f"on_{method}_{suffix}"):
                    paths[path][method] = {"responses": {"200": {"description": "JSON"}}}
        _answer(response, {"openapi": "3.1.0", "info": {"title": "mqnode", "version": "1"}, "paths": paths})

    def on_get_status(self, request: falcon.Request, response: falcon.Response) -> None:
        _answer(response, self.host.status())

    # -- clients ----------------------------------------------------------------------------------------------------------

    def on_get_clients(self, request: falcon.Request, response: falcon.Response) -> None:
        page = _page(request)
        found = [client for some in self.host.ask_workers("clients", **page) for client in some]
        found.sort(key=lambda client: client["client_id"])
        _answer(response, found[: page["limit"]])

    def on_get_client(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        for client in self.host.ask_workers("client", cid=unquote(name)):
            if client is not None:
                _answer(response, client)
                return
        raise falcon.HTTPNotFound(description=f"no client {unquote(name)!r} is connected")

    def on_delete_client(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        if not self.host.ask_keeper("kick", cid=unquote(name)):
            raise falcon.HTTPNotFound(description=f"no client {unquote(name)!r} is connected")
        _answer(response, {"kicked": unquote(name)})

    # -- sessions ---------------------------------------------------------------------------------------------------------

    def on_get_sessions(self, request: falcon.Request, response: falcon.Response) -> None:
        page = _page(request)
        records = self.host.reader().sessions(**page)
        connected = self._workers_of({record.client_id for record in records})
        _answer(response, [self._describe(record, connected) for record in records])

    def on_get_session(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        record = self.host.reader().session(unquote(name))
        if record is None:
            raise falcon.HTTPNotFound(description=f"there is no durable session {unquote(name)!r}")
        description = self._describe(record, self._workers_of({record.client_id}))
        subscriptions = self.host.reader().subscriptions_of(record.sid)
        description["subscriptions"] = [
            {"filter": each.filter, "qos": each.options & 3, "identifier": each.identifier} for each in subscriptions
        ]
        _answer(response, description)

    def on_delete_session(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        if not self.host.ask_keeper("session_delete", cid=unquote(name)):
            raise falcon.HTTPNotFound(description=f"there is no durable session {unquote(name)!r}")
        _answer(response, {"deleted": unquote(name)})

    def _workers_of(self, names: set[str]) -> dict[str, int]:
        found = {}
        for name in names:
            for client in self.host.ask_workers("client", cid=name):
                if client is not None:
                    found[name] = client["worker"]
        return found

    def _describe(self, record: Any, connected: dict[str, int]) -> dict[str, Any]:
        messages, size = self.host.reader().queue_depth(record.sid)
        return {
            "client_id": record.client_id,
            "user": record.user,
            "connected": record.client_id in connected,
            "worker": connected.get(record.client_id),
            "node": self.host.config.node.name,
            "expiry_s": record.expiry_s,
            "queued_messages": messages,
            "queued_bytes": size,
        }

    # -- retained, topics -------------------------------------------------------------------------------------------------

    def on_get_retained(self, request: falcon.Request, response: falcon.Response) -> None:
        filter = request.get_param("filter", default="#")
        limit = request.get_param_as_int("limit", min_value=1, max_value=LIMIT_MAX, default=100)
        found = []
        for record in self.host.reader().retained(filter, time.time_ns() // 1_000_000):
            topic, author = record_names(record)
            found.append({"topic": topic.decode(), "qos": record[0] & 3, "user": author or None, "bytes": len(record)})
            if len(found) >= limit:
                break
        _answer(response, found)

    def on_get_retained_one(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        record = self.host.reader().retained_get(unquote(name))
        if record is None:
            raise falcon.HTTPNotFound(description=f"topic {unquote(name)!r} has no retained message")
        response.content_type = "application/octet-stream"
        response.data = record[len(record) - int.from_bytes(record[25:29], "little") :]
        response.set_header("X-Topic", quote(unquote(name)))

    def on_delete_retained_one(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        if not self.host.ask_keeper("retained_delete", topic=unquote(name)):
            raise falcon.HTTPNotFound(description=f"topic {unquote(name)!r} has no retained message")
        _answer(response, {"deleted": unquote(name)})

    def on_get_match(self, request: falcon.Request, response: falcon.Response) -> None:
        topic = request.get_param("topic", required=True)
        found: dict[str, dict[str, Any]] = {}
        for answer in self.host.ask_workers("match", topic=topic):
            for each in answer:
                known = found.setdefault(each["client_id"], each)
                if each["connected_here"]:
                    found[each["client_id"]] = known = each
                known.pop("connected_here", None)
        _answer(response, sorted(found.values(), key=lambda each: each["client_id"]))

    def on_post_reload(self, request: falcon.Request, response: falcon.Response) -> None:
        errors = sorted({error for answer in self.host.ask_workers("reload") for error in answer})
        response.status = falcon.HTTP_409 if errors else falcon.HTTP_200
        _answer(response, {"errors": errors})
