"""The admin API: falcon resources over Host. GET of OPEN_PATHS needs no token; the rest needs the bearer token.

Lists take `limit`, `after` (the last name of the page before) and `match` (a glob); clients come in the order of their ids,
sessions and retained messages in that of the store. Names in paths are percent-encoded. Errors are JSON `{"error": …}`.
"""

from __future__ import annotations

import hmac
import time
from itertools import islice
from typing import Any

import falcon
import msgspec

from node.admin import metrics, records, removal
from node.admin.answer import answer
from node.admin.drain import Drain, DrainError, Order
from node.admin.host import DRAINING, Host
from node.admin.link import LinkError
from node.admin.rebalance import Rebalance, RebalanceError
from node.admin.route import route
from node.admin.settings import SettingsRoutes
from node.reload import waiting_keys
from storage.layout import SessionRecord, StoreError, Subscription
from storage.reader import Reader

LIMIT_MAX = 10_000
OPEN_PATHS = ("/live", "/ready", "/balancer", "/insync", "/metrics")


def make_app(host: Host, token: str) -> falcon.App[Any, Any]:
    """Everything, for those who know the token."""
    return _app(falcon.App(middleware=[_Token(token)]), host, tuple(ROUTES))


def make_health_app(host: Host) -> falcon.App[Any, Any]:
    """What load balancers and Prometheus ask, for everybody."""
    return _app(falcon.App(), host, OPEN_PATHS)


def _app(app: falcon.App[Any, Any], host: Host, paths: tuple[str, ...]) -> falcon.App[Any, Any]:
    for error in (LinkError, StoreError):
        app.add_error_handler(error, _unavailable)
    app.set_error_serializer(_serialize_error)
    resources = _Resources(host)
    for path in paths:
        app.add_route(path, resources, suffix=ROUTES[path])
    return app


ROUTES = {
    "/live": "live",
    "/ready": "ready",
    "/balancer": "balancer",
    "/insync": "insync",
    "/metrics": "metrics",
    "/openapi.json": "openapi",
    "/v1/status": "status",
    "/v1/clients": "clients",
    "/v1/clients/{name:path}": "client",
    "/v1/sessions": "sessions",
    "/v1/sessions/{name:path}": "session",
    "/v1/retained": "retained",
    "/v1/retained/{name:path}": "retained_one",
    "/v1/topics/match": "match",
    "/v1/topics/route": "route",
    "/v1/users": "users",
    "/v1/users/{name:path}": "user",
    "/v1/acl": "acl",
    "/v1/config": "config",
    "/v1/reload": "reload",
    "/v1/drain": "drain",
    "/v1/rebalance": "rebalance",
    "/v1/hosts/{name}": "other_host",
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


def _page(request: falcon.Request) -> dict[str, Any]:
    return {
        "limit": request.get_param_as_int("limit", min_value=1, max_value=LIMIT_MAX, default=100),
        "after": request.get_param("after", default=""),
        "match": request.get_param("match", default="*"),
    }


class _Resources(SettingsRoutes):
    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.drain = Drain(host)
        self.rebalance = Rebalance(host)

    def on_get_live(self, request: falcon.Request, response: falcon.Response) -> None:
        answer(response, {"live": True})

    def on_get_ready(self, request: falcon.Request, response: falcon.Response) -> None:
        reasons = self.host.not_ready()
        response.status = falcon.HTTP_503 if reasons else falcon.HTTP_200
        answer(response, {"ready": not reasons, "reasons": reasons})

    def on_get_balancer(self, request: falcon.Request, response: falcon.Response) -> None:
        """/ready, but 404 if this host is only to get no new clients, for it sends those that it has away itself."""
        reasons = self.host.not_ready()
        goes_softly = reasons == [DRAINING]
        response.status = falcon.HTTP_404 if goes_softly else falcon.HTTP_503 if reasons else falcon.HTTP_200
        answer(response, {"ready": not reasons, "reasons": reasons})

    def on_get_insync(self, request: falcon.Request, response: falcon.Response) -> None:
        reasons = self.host.not_in_sync()
        response.status = falcon.HTTP_503 if reasons else falcon.HTTP_200
        answer(response, {"insync": not reasons, "reasons": reasons})

    def on_get_metrics(self, request: falcon.Request, response: falcon.Response) -> None:
        response.content_type = "text/plain; version=0.0.4; charset=utf-8"
        response.data = metrics.text(self.host)

    def on_get_openapi(self, request: falcon.Request, response: falcon.Response) -> None:
        paths: dict[str, dict[str, Any]] = {path: {} for path in ROUTES}
        for path, suffix in ROUTES.items():
            for method in ("get", "post", "delete"):
                if hasattr(self, f"on_{method}_{suffix}"):
                    paths[path][method] = {"responses": {"200": {"description": "JSON"}}}
        answer(response, {"openapi": "3.1.0", "info": {"title": "mqnode", "version": "1"}, "paths": paths})

    def on_get_status(self, request: falcon.Request, response: falcon.Response) -> None:
        answer(response, self.host.status())

    # -- clients ----------------------------------------------------------------------------------------------------------

    def on_get_clients(self, request: falcon.Request, response: falcon.Response) -> None:
        page = _page(request)
        found = [client for some in self.host.ask_workers("clients", **page) for client in some]
        found.sort(key=lambda client: client["client_id"])
        answer(response, found[: page["limit"]])

    def on_get_client(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        for client in self.host.ask_workers("client", cid=name):
            if client is not None:
                client["filters"] = [{"filter": name, "qos": options & 3} for name, options in client["filters"]]
                answer(response, client)
                return
        raise falcon.HTTPNotFound(description=f"no client {name!r} is connected to this host")

    def on_delete_client(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        if not self.host.ask_keeper("kick", cid=name):
            raise falcon.HTTPNotFound(description=f"no client {name!r} is connected")
        answer(response, {"kicked": name})

    # -- sessions ---------------------------------------------------------------------------------------------------------

    def on_get_sessions(self, request: falcon.Request, response: falcon.Response) -> None:
        page = _page(request)

        def find(reader: Reader) -> list[tuple[SessionRecord, int, int]]:
            return [(record, *reader.queue_depth(record.sid)) for record in reader.sessions(**page)]

        found = self.host.read(find)
        connected, hosts = self._connected([record.client_id for record, _, _ in found]), self.host.hosts()
        answer(response, [self._describe(*each, connected, hosts) for each in found])

    def on_get_session(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        def find(reader: Reader) -> tuple[SessionRecord, int, int, list[Subscription]] | None:
            record = reader.session(name)
            if record is None:
                return None
            return (record, *reader.queue_depth(record.sid), reader.subscriptions_of(record.sid))

        found = self.host.read(find)
        if found is None:
            raise falcon.HTTPNotFound(description=f"there is no durable session {name!r}")
        record, messages, size_bytes, subscriptions = found
        description = self._describe(record, messages, size_bytes, self._connected([name]), self.host.hosts())
        description["subscriptions"] = [
            {"filter": each.filter, "qos": each.options & 3, "identifier": each.identifier or None}
            for each in sorted(subscriptions, key=lambda each: each.filter)
        ]
        answer(response, description)

    def on_delete_session(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        if not self.host.ask_keeper("session_delete", cid=name):
            raise falcon.HTTPNotFound(description=f"there is no durable session {name!r}")
        answer(response, {"deleted": name})

    def _connected(self, names: list[str]) -> dict[str, int]:
        """Client id -> worker."""
        found = {}
        for some in self.host.ask_workers("connected", cids=names) if names else []:
            found.update(some)
        return found

    def _describe(
        self,
        record: SessionRecord,
        messages: int,
        size_bytes: int,
        connected: dict[str, int],
        hosts: dict[int, dict[str, Any]],
    ) -> dict[str, Any]:
        """`node`: the host that delivers its queue, and has its client."""
        worker = connected.get(record.client_id)
        owner = hosts.get(record.owner, {"name": None if hosts else self.host.config.node.name, "state": "up"})
        if record.attached and owner["state"] == "up" and not owner.get("this_host", True):
            worker = record.worker
        return {
            "client_id": record.client_id,
            "user": record.user,
            "connected": worker is not None,
            "worker": worker,
            "node": owner["name"],
            "created_at": record.created_ms / 1000,
            "disconnected_at": None if worker is not None else record.detached_ms / 1000,
            "expiry_s": record.expiry_s,
            "queued_messages": messages,
            "queued_bytes": size_bytes,
        }

    # -- retained, topics -------------------------------------------------------------------------------------------------

    def on_get_retained(self, request: falcon.Request, response: falcon.Response) -> None:
        filter = request.get_param("filter", default="#")
        after = request.get_param("after", default="")
        limit = request.get_param_as_int("limit", min_value=1, max_value=LIMIT_MAX, default=100)
        found = self.host.read(lambda reader: list(islice(reader.retained(filter, _now_ms(), after), limit)))
        answer(response, [records.describe(record) for record in found])

    def on_get_retained_one(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        """The payload as it is, or all about the message for those who accept JSON alone."""
        is_topic = "+" not in name and "#" not in name
        found = is_topic and self.host.read(lambda reader: list(reader.retained(name, _now_ms())))
        if not found:
            raise falcon.HTTPNotFound(description=f"topic {name!r} has no retained message")
        if request.accept == "application/json":
            answer(response, records.describe_whole(found[0]))
        else:
            response.content_type = "application/octet-stream"
            response.data = records.payload(found[0])

    def on_delete_retained_one(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        if not self.host.ask_keeper("retained_delete", topic=name):
            raise falcon.HTTPNotFound(description=f"topic {name!r} has no retained message")
        answer(response, {"deleted": name})

    def on_get_match(self, request: falcon.Request, response: falcon.Response) -> None:
        topic = request.get_param("topic", required=True)
        found: dict[str, dict[str, Any]] = {}
        for found_there in self.host.ask_workers("match", topic=topic):
            for each in found_there:
                is_here, worker, share = each.pop("connected_here"), each.pop("worker"), each.pop("share")
                known = found.setdefault(each["client_id"], each | {"connected": False, "worker": None, "shares": []})
                known["shares"] = sorted({*known["shares"], *([share] if share else [])})
                known["qos"] = max(known["qos"], each["qos"])
                if is_here:
                    known |= {"connected": True, "worker": worker}
        answer(response, sorted(found.values(), key=lambda each: each["client_id"]))

    def on_get_route(self, request: falcon.Request, response: falcon.Response) -> None:
        topic = request.get_param("topic", required=True)
        matches = [each for answer in self.host.ask_workers("match", topic=topic) for each in answer]
        durable = sorted({each["client_id"] for each in matches if each["durable"]})
        records = self.host.read(lambda reader: [reader.session(name) for name in durable])
        answer(response, route(self.host, topic, any(each["connected_here"] for each in matches), records))

    def on_post_reload(self, request: falcon.Request, response: falcon.Response) -> None:
        answers, silent = self.host.ask_every_worker("reload")
        errors = [*sorted({error for answer in answers for error in answer}), *silent]
        response.status = falcon.HTTP_409 if errors else falcon.HTTP_200
        answer(response, {"errors": errors, "need_restart": waiting_keys(self.host.config)})

    # -- leaving ----------------------------------------------------------------------------------------------------------

    def on_get_drain(self, request: falcon.Request, response: falcon.Response) -> None:
        answer(response, self.drain.describe())

    def on_post_drain(self, request: falcon.Request, response: falcon.Response) -> None:
        order = Order(
            leave=request.get_param_as_bool("leave", default=False),
            rate=request.get_param_as_int("rate", min_value=0, default=0),
            grace_s=request.get_param_as_float("grace_s", min_value=0, default=0),
            timeout_s=request.get_param_as_float("timeout_s", min_value=0, default=600),
        )
        try:
            self.drain.start(order)
        except DrainError as error:
            raise falcon.HTTPConflict(description=str(error)) from error
        answer(response, self.drain.describe())

    def on_delete_drain(self, request: falcon.Request, response: falcon.Response) -> None:
        if not self.drain.cancel():
            raise falcon.HTTPConflict(
                description="it has left already: mqnode join" if self.host.has_left else "this host is not leaving"
            )
        answer(response, self.drain.describe())

    def on_get_rebalance(self, request: falcon.Request, response: falcon.Response) -> None:
        answer(response, self.rebalance.describe())

    def on_post_rebalance(self, request: falcon.Request, response: falcon.Response) -> None:
        try:
            self.rebalance.start(request.get_param_as_int("rate", min_value=1, default=500))
        except RebalanceError as error:
            raise falcon.HTTPConflict(description=str(error)) from error
        answer(response, self.rebalance.describe())

    def on_get_other_host(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        answer(response, removal.describe(self.host, name))

    def on_delete_other_host(self, request: falcon.Request, response: falcon.Response, name: str) -> None:
        answer(response, removal.remove(self.host, name))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
