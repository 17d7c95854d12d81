"""TLS of one listener: its contexts, made from the configured files, and the filter of each connection.

A change of files is read, checked and swapped in as a whole by `reload`; whatever is wrong with them, the old contexts
stay. Connections keep the context they began with. What is not clear is refused: a broken CA or CRL, a certificate
without a usable name where one is asked for. No renegotiation; tickets, whose keys live as long as the contexts.
"""

from __future__ import annotations

import calendar
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from node.config import Listener
from node.listeners.filters import Filter, FilterError, ListenError, usable_name

_READ_BYTES = 65536
_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_SAN_KINDS = {"san_dns": "DNS", "san_uri": "URI", "san_email": "email"}


class TlsError(ListenError):
    """The files of a listener cannot be used; after `reload` the earlier ones are still in use."""


class TlsContexts:
    """The contexts in use, and the moment when the first of their certificates expires."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._context, self.expires_at = _load(listener)

    def reload(self) -> None:
        """Use the files as they are now, for new connections. Raises TlsError, and then nothing has changed."""
        self._context, self.expires_at = _load(self._listener)

    def filter(self) -> Filter:
        return TlsFilter(self._context, self._listener.identity)


def _load(listener: Listener) -> tuple[ssl.SSLContext, float]:
    """The context for clients that name no server or an unknown one; it hands over to those of `sni`."""
    if not listener.certificate or not listener.key:
        raise TlsError(f"listener {listener.bind}: TLS needs `certificate` and `key`. Set both, or type = tcp or ws.")
    if (listener.client_certificate == "none") != (not listener.client_ca):
        raise TlsError(
            f"listener {listener.bind}: `client_ca` and `client_certificate` = optional or required go together; "
            "with one alone no client certificate would be checked. Set both or none."
        )
    if listener.client_certificate == "none" and (listener.identity != "none" or listener.client_crl):
        raise TlsError(f"listener {listener.bind}: `identity` and `client_crl` need `client_certificate`. Set it too.")
    default = _context(listener, listener.certificate, listener.key)
    named = {name.lower(): _context(listener, *files) for name, files in listener.sni.items()}

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = named.get((name or "").lower(), default)

    if named:
        default.sni_callback = choose
    certificates = [listener.certificate, *(certificate for certificate, _ in listener.sni.values())]
    return default, min(_expires_at(path) for path in certificates)


def _context(listener: Listener, certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if listener.min_tls == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    for path in (certificate, key):  # OpenSSL would not say which
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise TlsError(
                f"listener {listener.bind}: {path} cannot be read: {_reason(error)}. "
                "Correct the path; the user of the service must be able to read the file."
            ) from error
    try:
        context.load_cert_chain(certificate, key, password="")  # "": fail on an encrypted key, do not ask
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise TlsError(
            f"listener {listener.bind}: {certificate} and {key} cannot be used: {_reason(error)}. "
            f"Compare `openssl x509 -noout -pubkey -in {certificate}` with `openssl pkey -pubout -in {key}`."
        ) from error
    if listener.client_ca:
        _load_client_ca(context, listener)
    return context


def _load_client_ca(context: ssl.SSLContext, listener: Listener) -> None:
    context.verify_mode = _VERIFY[listener.client_certificate]
    for path, kind in ((listener.client_ca, "x509_ca"), (listener.client_crl, "crl")):
        if not path:
            continue
        try:
            context.load_verify_locations(cafile=path)
        except (OSError, ValueError) as error:
            raise TlsError(
                f"listener {listener.bind}: {path} cannot be used: {_reason(error)}. No client could be checked. "
                f"Look at it with `openssl {'crl' if kind == 'crl' else 'x509'} -noout -text -in {path}`."
            ) from error
        if not context.cert_store_stats()[kind]:
            wanted = "revocation list" if kind == "crl" else "CA certificate"
            raise TlsError(
                f"listener {listener.bind}: {path} holds no {wanted}. No client could be checked. Replace it."
            )
    if all(ssl.cert_time_to_seconds(str(ca["notAfter"])) < time.time() for ca in context.get_ca_certs()):
        raise TlsError(f"listener {listener.bind}: {listener.client_ca} has expired; all clients would be refused.")
    if listener.client_crl:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _reason(error: BaseException) -> str:
    """OpenSSL's own words, without its numbers and source lines."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _expires_at(path: str) -> float:
    """notAfter of the first certificate in the PEM file, as seconds since the epoch."""
    text = Path(path).read_text(encoding="ascii", errors="replace")
    begin, end = text.index(ssl.PEM_HEADER), text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
    certificate = _der(_der(ssl.PEM_cert_to_DER_cert(text[begin:end]))[0][1])  # of the outer SEQUENCE
    fields = _der(certificate[0][1])
    if fields[0][0] == 0xA0:  # the version, absent in v1
        fields.pop(0)
    kind, not_after = _der(fields[3][1])[1]  # serial, algorithm, issuer, validity: two times
    digits = not_after.decode()
    if kind == 0x17:  # UTCTime, two digits of the year
        digits = ("19" if digits >= "50" else "20") + digits
    return float(calendar.timegm(time.strptime(digits, "%Y%m%d%H%M%SZ")))


def _der(data: bytes) -> list[tuple[int, bytes]]:
    """The (tag, content) elements that stand one after the other in `data`."""
    elements, at = [], 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            width = length & 0x7F
            length, at = int.from_bytes(data[at : at + width], "big"), at + width
        elements.append((tag, data[at : at + length]))
        at += length
    return elements


class TlsFilter:
    finished = False

    def __init__(self, context: ssl.SSLContext, identity: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._identity = identity
        self._facts: dict[str, object] = {}
        self._established = False
        self._ended = False
        self._broken = False
        self._early = b""  # to be sent after the handshake

    def receive(self, data: bytes) -> bytes:
        if self._ended:
            raise FilterError("TLS: closed by the client")
        self._incoming.write(data)
        try:
            if not self._established:
                self._tls.do_handshake()
                self._establish()
            return self._read()
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as error:
            self._broken = True
            raise FilterError(f"TLS: {_reason(error)}") from error

    def _read(self) -> bytes:
        plain = []
        try:
            while chunk := self._tls.read(_READ_BYTES):
                plain.append(chunk)
            self._ended = True  # close_notify
        except ssl.SSLWantReadError:
            pass
        if self._ended and not plain:
            raise FilterError("TLS: closed by the client")
        return b"".join(plain)

    def _establish(self) -> None:
        self._established = True
        cipher = self._tls.cipher()
        self._facts = {"tls": self._tls.version(), "cipher": cipher[0] if cipher else None}
        if self._identity != "none" and self._tls.getpeercert(binary_form=True) is not None:
            self._facts["user"] = _identity(self._tls, self._identity)
        if self._early:
            early, self._early = self._early, b""
            self.send(early)

    def send(self, data: bytes) -> None:
        if self._broken:  # the core knows and is about to close
            return
        if not self._established:
            self._early += data
            return
        rest = memoryview(data)
        while rest:  # OpenSSL takes one record at a time
            rest = rest[self._tls.write(rest) :]

    def take(self) -> bytes:
        return self._outgoing.read()

    def close(self) -> None:
        if self._established:
            with suppress(ssl.SSLError):  # it wants the client's close_notify, for which nobody waits; ours is queued
                self._tls.unwrap()

    def facts(self) -> dict[str, object]:
        return self._facts


def _identity(connection: ssl.SSLObject, kind: str) -> str:
    """The user that the client's certificate names. Raises FilterError."""
    try:
        certificate: dict[str, Any] = connection.getpeercert() or {}
    except (ssl.SSLError, ValueError) as error:  # ValueError: not UTF-8
        raise FilterError("TLS: the certificate cannot be read") from error
    if kind == "cn":
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    else:
        names = [value for key, value in certificate.get("subjectAltName", ()) if key == _SAN_KINDS[kind]]
    if not names or (kind == "cn" and len(names) > 1):
        raise FilterError(f"TLS: the certificate has no {kind}" if not names else "TLS: the certificate has several cn")
    return usable_name(names[0])
