"""An issuer of tokens for tests: its keys, tokens of every kind, and the HTTP server where it shows and answers."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://id.example.org/", "mqtt"
RSA_KEY = rsa.generate_private_key(65537, 2048)
PRIVATE: dict[str, Any] = {
    "RS256": RSA_KEY, "PS256": RSA_KEY, "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}  # fmt: skip


def pem(private: Any) -> bytes:
    return bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def jwk(private: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    kinds = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    kind = next((kinds[each] for each in kinds if isinstance(private, each)), OKPAlgorithm)
    named = {} if kid is None else {"kid": kid}
    return {**kind.to_jwk(private.public_key(), as_dict=True), **named, **more}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


ALL_KEYS = jwks(*(jwk(PRIVATE[each], each) for each in ("RS256", "ES256", "EdDSA")))


def claims(**changed: Any) -> dict[str, Any]:
    """Good ones of alice; a claim that is None is left out."""
    now = time.time()
    all_ = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "nbf": now - 5, "exp": now + 600, **changed}
    return {name: value for name, value in all_.items() if value is not None}


def token(
    algorithm: str = "ES256", *, key: Any = None, kid: str | None = "", header: Any = (), **changed: Any
) -> bytes:
    """Signed by the issuer's key for `algorithm`, which is its kid, too, unless others are given."""
    kid = algorithm if kid == "" else kid
    headers = {**dict(header), **({} if kid is None else {"kid": kid})}
    return jwt.encode(claims(**changed), key or PRIVATE[algorithm], algorithm, headers=headers).encode()


class IssuerServer:
    """GET answers `keys` with an ETag, POST what `active` says of a token. `before` runs in each request, and may wait or raise."""

    def __init__(self, certificate: tuple[str, str] | None = None) -> None:
        self.keys = ALL_KEYS
        self.active: Callable[[str], Any] = lambda token: {"active": False}
        self.before: Callable[[], object] = lambda: None
        self.status = 200
        self.statuses: list[int] = []  # of the answers
        self.authorization = ""
        self.questions = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                etag = f'"{hash(issuer.keys)}"'
                same = self.headers["If-None-Match"] == etag
                self.answer(304 if same and issuer.status == 200 else issuer.status, b"" if same else issuer.keys, etag)

            def do_POST(self) -> None:
                issuer.authorization = self.headers["Authorization"]
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                content = issuer.active(form["token"][0])
                self.answer(issuer.status, content if isinstance(content, bytes) else json.dumps(content).encode())

            def answer(self, status: int, content: bytes, etag: str = "") -> None:
                issuer.questions += 1
                issuer.before()
                issuer.statuses.append(status)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if status in (301, 302, 307):
                    self.send_header("Location", f"http://127.0.0.2:{issuer.port}/")
                if etag:
                    self.send_header("ETag", etag)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = self.server.server_port
        if certificate is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(*certificate)
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
