"""Where hosts announce themselves, in small: etcd's JSON gateway, an S3 bucket, a DNS zone.

They speak what is documented of the real ones, which no test can install:
https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway · https://docs.aws.amazon.com/AmazonS3/latest/API/
"""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Inside = Callable[[Callable[[], Any]], Any]


class _Http:
    """`with Etcd("127.0.0.1") as etcd`: an HTTP server of its own thread; `inside` makes its socket in a namespace."""

    def __init__(self, address: str, inside: Inside = lambda call: call()) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # nobody stays connected to one that is stopped

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with outer.lock:
                    status, kind, content, headers = outer.handle(self.command, self.path, body)
                self.send_response(status)
                for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.lock = threading.Lock()
        self._server = inside(lambda: ThreadingHTTPServer((address, 0), Handler))
        self._server.daemon_threads = True
        self.url = f"http://{address}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, str, bytes, dict[str, str]]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class Etcd(_Http):
    """Keys and leases; a lease that nobody renews takes its keys along."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.leases: dict[int, tuple[float, int]] = {}  # id: (ends at, TTL)
        self.stored: dict[str, tuple[bytes, int]] = {}
        self.asked: list[str] = []

    def entries(self) -> dict[str, bytes]:
        with self.lock:
            self._expire()
            return {key: value for key, (value, _) in self.stored.items()}

    def _expire(self) -> None:
        for lease, (ends_at, _) in list(self.leases.items()):
            if ends_at < time.monotonic():
                self._revoke(lease)

    def _revoke(self, lease: int) -> None:
        del self.leases[lease]
        self.stored = {key: entry for key, entry in self.stored.items() if entry[1] != lease}

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, str, bytes, dict[str, str]]:
        self.asked.append(path)
        self._expire()
        call = {
            "/v3/lease/grant": self._grant, "/v3/lease/keepalive": self._keepalive, "/v3/lease/revoke": self._end,
            "/v3/kv/put": self._put, "/v3/kv/range": self._range,
        }.get(path)  # fmt: skip
        if method != "POST" or call is None:
            return 404, "text/plain", b"Not Found", {}
        try:
            answer = call(json.loads(body))
        except KeyError:
            return 404, "application/json", b'{"code":5,"message":"etcdserver: requested lease not found"}', {}
        return 200, "application/json", json.dumps({"header": {"revision": "1"}} | answer).encode(), {}

    def _grant(self, asked: dict[str, Any]) -> dict[str, Any]:
        lease = 7587000000000000000 + len(self.asked)
        self.leases[lease] = (time.monotonic() + int(asked["TTL"]), int(asked["TTL"]))
        return {"ID": str(lease), "TTL": str(asked["TTL"])}

    def _keepalive(self, asked: dict[str, Any]) -> dict[str, Any]:
        lease = int(asked["ID"])
        if lease not in self.leases:
            return {"result": {"ID": str(lease)}}  # TTL 0 is left out
        ttl = self.leases[lease][1]
        self.leases[lease] = (time.monotonic() + ttl, ttl)
        return {"result": {"ID": str(lease), "TTL": str(ttl)}}

    def _end(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._revoke(int(asked["ID"]))
        return {}

    def _put(self, asked: dict[str, Any]) -> dict[str, Any]:
        lease = int(asked.get("lease", 0))
        if lease and lease not in self.leases:
            raise KeyError(lease)
        self.stored[base64.b64decode(asked["key"]).decode()] = base64.b64decode(asked["value"]), lease
        return {}

    def _range(self, asked: dict[str, Any]) -> dict[str, Any]:
        first, end = (base64.b64decode(asked[name]).decode() for name in ("key", "range_end"))
        found = [
            {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value).decode()}
            for key, (value, _) in sorted(self.stored.items())
            if first <= key < end
        ]
        return {"kvs": found, "count": str(len(found))} if found else {}


class Bucket(_Http):
    """One bucket, "hosts": PUT, GET, DELETE of objects, and ListObjectsV2."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.objects: dict[str, tuple[bytes, float]] = {}  # by key: content, when it was written

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, str, bytes, dict[str, str]]:
        url = urlsplit(path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        if bucket != "hosts":
            return 404, "application/xml", b"<Error><Code>NoSuchBucket</Code></Error>", {}
        if method == "PUT":
            self.objects[key] = body, time.time()
            return 200, "application/xml", b"", {"ETag": '"e"'}
        if method == "DELETE":
            self.objects.pop(key, None)
            return 204, "application/xml", b"", {}
        if not key:
            return 200, "application/xml", self._list(parse_qs(url.query).get("prefix", [""])[0]), {}
        if key not in self.objects:
            return 404, "application/xml", b"<Error><Code>NoSuchKey</Code></Error>", {}
        content, written = self.objects[key]
        return 200, "application/json", content, {"ETag": '"e"', "Last-Modified": formatdate(written, usegmt=True)}

    def _list(self, prefix: str) -> bytes:
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(written))}.000Z"
            f'</LastModified><ETag>"e"</ETag><Size>{len(content)}</Size><StorageClass>STANDARD</StorageClass></Contents>'
            for key, (content, written) in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="{namespace}"><Name>hosts</Name>'
            f"<Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        ).encode()


class Zone:
    """A DNS server over UDP: `records` by (name, type), as they stand in a zone file. Each answer begins with the next of them."""

    def __init__(self, address: str, records: dict[tuple[str, str], list[str]], port: int = 0) -> None:
        self.records = records
        self.broken: set[tuple[str, str]] = set()  # SERVFAIL
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, port))
        self._socket.settimeout(0.1)
        self.address = f"{address}:{self._socket.getsockname()[1]}"
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while not self._stopped:
            with suppress(TimeoutError):
                question, peer = self._socket.recvfrom(4096)
                self._socket.sendto(self._answer(dns.message.from_wire(question)).to_wire(), peer)

    def _answer(self, question: dns.message.Message) -> dns.message.Message:
        [asked] = question.question
        name, kind = asked.name.to_text().rstrip("."), dns.rdatatype.to_text(asked.rdtype)
        answer = dns.message.make_response(question)
        answer.flags |= dns.flags.AA
        if (name, kind) in self.broken:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif found := self.records.get((name, kind)):
            found.append(found.pop(0))
            answer.answer.append(dns.rrset.from_text(asked.name, 5, "IN", kind, *found))
        elif not any(name == each for each, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer
