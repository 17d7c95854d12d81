"""TLS filters against real client-side SSLObjects: handshakes cut anywhere, identities, refusals, reload."""

from __future__ import annotations

import random
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from node.config import Listener
from node.listeners.filters import Filter, FilterError, usable_name
from node.listeners.tls import TlsContexts, TlsError
from tests.unit.certificates import NOW, Authority

Cut = Callable[[bytes], list[bytes]]


def whole(data: bytes) -> list[bytes]:
    return [data] if data else []


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def randomly(data: bytes) -> list[bytes]:
    chance = random.Random(len(data))
    pieces = []
    while data:
        size = chance.randint(1, max(1, len(data) // 2))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


class Client:
    """A TLS client whose bytes go through a pretend wire to `filter`."""

    def __init__(self, peer: Filter, context: ssl.SSLContext, name: str = "mqtt.test", cut: Cut = whole) -> None:
        self.peer = peer
        self.cut = cut
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        self.received = b""

    def pump(self) -> None:
        """Carry bytes both ways until there are none."""
        while True:
            sent = self.outgoing.read()
            for piece in self.cut(sent):
                try:
                    self.received += self.peer.receive(piece)
                finally:
                    self.incoming.write(self.peer.take())
            answer = self.peer.take()
            self.incoming.write(answer)
            if not sent and not answer:
                return
            if not self._shake():
                continue

    def _shake(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def connect(self) -> None:
        self._shake()
        self.pump()
        self.tls.do_handshake()

    def read(self) -> bytes:
        data = b""
        try:
            while chunk := self.tls.read(65536):
                data += chunk
        except ssl.SSLWantReadError:
            pass
        return data


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def listener(authority: Authority, **more: object) -> Listener:
    certificate, key = authority.issue("server", "mqtt.test", [x509.DNSName("mqtt.test")])
    return Listener(type="tls", bind="127.0.0.1:0", certificate=certificate, key=key, **more)  # type: ignore[arg-type]


def client_context(authority: Authority, certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.path)
    if certificate:
        context.load_cert_chain(*certificate)
    return context


@pytest.mark.parametrize("cut", [whole, byte_by_byte, randomly])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_bytes_pass_both_ways_however_cut(authority: Authority, cut: Cut, version: ssl.TLSVersion) -> None:
    context = client_context(authority)
    context.maximum_version = version
    part = TlsContexts(listener(authority)).filter()
    client = Client(part, context, cut=cut)
    client.connect()
    payload = random.Random(1).randbytes(50_000)
    client.tls.write(payload[:16000])
    client.tls.write(payload[16000:32000])
    client.pump()
    assert client.received == payload[:32000]
    part.send(payload)
    part.send(b"tail")
    client.pump()
    assert client.read() == payload + b"tail"
    assert part.facts() == {"tls": client.tls.version(), "cipher": client.tls.cipher()[0]}  # type: ignore[index]


def test_what_is_sent_before_the_handshake_arrives_after_it(authority: Authority) -> None:
    part = TlsContexts(listener(authority)).filter()
    part.send(b"early")
    client = Client(part, client_context(authority))
    client.connect()
    assert client.read() == b"early"


def test_last_words_before_close_notify_are_delivered(authority: Authority) -> None:
    part = TlsContexts(listener(authority)).filter()
    client = Client(part, client_context(authority))
    client.connect()
    client.tls.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.pump()
    assert client.received == b"last words"
    with pytest.raises(FilterError, match="closed by the client"):
        part.receive(b"x")


def test_close_sends_close_notify(authority: Authority) -> None:
    part = TlsContexts(listener(authority)).filter()
    part.close()  # before the handshake there is nothing to say
    client = Client(part, client_context(authority))
    client.connect()
    part.close()
    client.incoming.write(part.take())
    assert client.read() == b""
    client.tls.unwrap()  # without error: the close was complete


def test_minimum_version(authority: Authority) -> None:
    context = client_context(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    part = TlsContexts(listener(authority, min_tls="1.3")).filter()
    with pytest.raises(FilterError, match="unsupported protocol"):
        Client(part, context).connect()
    assert part.take() == b""  # the pump took the alert


def test_sni(authority: Authority) -> None:
    other = authority.issue("other", "other.test", [x509.DNSName("other.test")])
    contexts = TlsContexts(listener(authority, sni={"Other.Test": other}))
    for name in ("mqtt.test", "other.test"):  # the client checks the name in the certificate
        Client(contexts.filter(), client_context(authority), name).connect()
    context = client_context(authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(contexts.filter(), context, "third.test").connect()


IDENTITIES = [
    ("cn", "alice", None, "alice"),
    ("cn", "Äl/ice", None, "Äl/ice"),
    ("san_dns", None, [x509.DNSName("a.test"), x509.DNSName("b.test")], "a.test"),
    ("san_uri", None, [x509.DNSName("a.test"), x509.UniformResourceIdentifier("urn:x:1")], "urn:x:1"),
    ("san_email", "ignored", [x509.RFC822Name("a@b.test")], "a@b.test"),
]


@pytest.mark.parametrize(("kind", "cn", "sans", "user"), IDENTITIES)
def test_identity(
    authority: Authority, kind: str, cn: str | None, sans: list[x509.GeneralName] | None, user: str
) -> None:
    part = TlsContexts(
        listener(authority, client_ca=authority.path, client_certificate="required", identity=kind)
    ).filter()
    Client(part, client_context(authority, authority.issue("client", cn, sans))).connect()
    assert part.facts()["user"] == user


@pytest.mark.parametrize(
    ("kind", "cn", "sans"),
    [
        ("cn", "al+ice", None),
        ("cn", "#", None),
        ("cn", "*.test", None),
        ("cn", "new\nline", None),
        ("cn", None, [x509.DNSName("a.test")]),
        ("san_dns", "alice", None),
        ("san_dns", None, [x509.DNSName("*.test")]),
        ("san_email", None, [x509.RFC822Name("a+b@c.test")]),
    ],
)
@pytest.mark.parametrize("asked", ["optional", "required"])
def test_unusable_identities_are_refused(
    authority: Authority, kind: str, cn: str | None, sans: list[x509.GeneralName] | None, asked: str
) -> None:
    part = TlsContexts(listener(authority, client_ca=authority.path, client_certificate=asked, identity=kind)).filter()
    with pytest.raises(FilterError, match="certificate"):
        Client(part, client_context(authority, authority.issue("client", cn, sans))).connect()
    assert "user" not in part.facts()


def test_names() -> None:
    assert usable_name("Bj\u00f6rn".encode()) == "Björn"
    for bad in (b"\xff", b"", b"a\0b", "\ud800", "a/#"):
        with pytest.raises(FilterError):
            usable_name(bad)


def test_client_certificates_optional_and_required(authority: Authority, tmp_path: Path) -> None:
    optional = listener(authority, client_ca=authority.path, client_certificate="optional", identity="cn")
    part = TlsContexts(optional).filter()
    Client(part, client_context(authority)).connect()
    assert "user" not in part.facts()
    stranger = Authority(tmp_path).issue("stranger", "alice")
    for asked in ("optional", "required"):
        contexts = TlsContexts(listener(authority, client_ca=authority.path, client_certificate=asked))
        with pytest.raises(FilterError, match="unable to get local issuer certificate"):
            Client(contexts.filter(), client_context(authority, stranger)).connect()
    with pytest.raises(FilterError, match="peer did not return a certificate"):
        Client(contexts.filter(), client_context(authority)).connect()


def test_expired_client_certificate(authority: Authority) -> None:
    contexts = TlsContexts(listener(authority, client_ca=authority.path, client_certificate="required"))
    with pytest.raises(FilterError, match="certificate has expired"):
        Client(contexts.filter(), client_context(authority, authority.issue("old", "alice", days=-1))).connect()


def test_revocation_also_after_reload_and_resumption(authority: Authority) -> None:
    alice, bob = authority.issue("alice", "alice"), authority.issue("bob", "bob")
    crl = authority.revoke(bob[0])
    contexts = TlsContexts(
        listener(authority, client_ca=authority.path, client_certificate="required", client_crl=crl, identity="cn")
    )
    context = client_context(authority, alice)
    first = Client(contexts.filter(), context)
    first.connect()
    first.read()
    with pytest.raises(FilterError, match="certificate revoked"):
        Client(contexts.filter(), client_context(authority, bob)).connect()
    authority.revoke(alice[0], bob[0])
    contexts.reload()
    again = Client(contexts.filter(), context)
    again.tls.session = first.tls.session  # the ticket of the time before must not help
    with pytest.raises(FilterError, match="certificate revoked"):
        again.connect()
    authority.revoke(days=-1)
    contexts.reload()
    with pytest.raises(FilterError, match="CRL has expired"):
        Client(contexts.filter(), client_context(authority, alice)).connect()


def test_resumed_session_has_its_identity(authority: Authority) -> None:
    contexts = TlsContexts(listener(authority, client_ca=authority.path, client_certificate="required", identity="cn"))
    context = client_context(authority, authority.issue("alice", "alice"))
    first = Client(contexts.filter(), context)
    first.connect()
    first.read()
    part = contexts.filter()
    second = Client(part, context)
    second.tls.session = first.tls.session
    second.connect()
    assert second.tls.session_reused
    assert part.facts()["user"] == "alice"


def test_no_renegotiation_and_garbage(authority: Authority) -> None:
    contexts = TlsContexts(listener(authority))
    for garbage, reason in ((b"GET / HTTP/1.1\r\n\r\n", "http request"), (b"\x10\x0c\0\4MQTT\4\2\0\0\0\0", "TLS: ")):
        part = contexts.filter()
        with pytest.raises(FilterError, match=reason):
            part.receive(garbage)
    part = contexts.filter()
    client = Client(part, client_context(authority))
    client.connect()
    with pytest.raises(FilterError):
        part.receive(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert part.take()  # an alert


def test_mutated_handshakes_and_records_only_close(authority: Authority) -> None:
    contexts = TlsContexts(listener(authority, client_ca=authority.path, client_certificate="optional"))
    context = client_context(authority, authority.issue("client", "alice"))
    chance = random.Random(26)

    def mutated(data: bytes) -> list[bytes]:
        raw = bytearray(data)
        if raw and chance.random() < 0.5:
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        return randomly(bytes(raw))

    closed = 0
    for _ in range(150):
        client = Client(contexts.filter(), context, cut=mutated)
        try:
            client.connect()
            client.tls.write(b"x" * 100)
            client.pump()
        except (FilterError, ssl.SSLError):
            closed += 1
        client.peer.send(b"y")
        client.peer.close()
        client.peer.take()
    assert closed > 50


def test_reload_keeps_the_old_files_when_the_new_ones_are_bad(authority: Authority, tmp_path: Path) -> None:
    settings = listener(authority, client_ca=authority.path, client_certificate="optional")
    contexts = TlsContexts(settings)
    assert contexts.expires_at == NOW.timestamp() + 30 * 86400
    live = Client(contexts.filter(), client_context(authority))
    live.connect()
    trusting = client_context(authority)
    good = {name: Path(name).read_bytes() for name in (settings.certificate, settings.key, settings.client_ca)}
    other_key = Path(authority.issue("unrelated", "x")[1]).read_bytes()
    torn = b"-----BEGIN CERTIFICATE-----\nAAAA"
    broken = [
        (settings.key, other_key), (settings.key, b""), (settings.certificate, torn),
        (settings.client_ca, b""), (settings.client_ca, torn + b"\n-----END CERTIFICATE-----\n"),
        (settings.client_ca, Path(Authority(tmp_path, days=-1).path).read_bytes()),
        (settings.certificate, None), (settings.client_ca, None),
    ]  # fmt: skip
    for name, content in broken:
        Path(name).unlink()
        if content is not None:
            Path(name).write_bytes(content)
        with pytest.raises(TlsError, match="listener 127"):
            contexts.reload()
        with pytest.raises(TlsError):
            TlsContexts(settings)
        Client(contexts.filter(), trusting).connect()
        Path(name).write_bytes(good[name])
    certificate, key = authority.issue("renewed", "mqtt.test", [x509.DNSName("mqtt.test")], days=90)
    shutil.copy(certificate, settings.certificate)
    shutil.copy(key, settings.key)
    contexts.reload()
    assert contexts.expires_at == NOW.timestamp() + 90 * 86400
    fresh = Client(contexts.filter(), client_context(authority))
    fresh.connect()
    assert fresh.tls.getpeercert(True) != live.tls.getpeercert(True)
    live.tls.write(b"still here")
    live.pump()
    assert live.received == b"still here"


@pytest.mark.parametrize(
    "broken",
    [
        {"certificate": "", "key": ""},
        {"client_certificate": "required"},
        {"client_ca": "ca"},
        {"identity": "cn"},
        {"client_crl": "crl"},
        {"client_ca": "ca", "client_certificate": "required", "client_crl": "ca"},
    ],
)
def test_contradictions_are_refused(authority: Authority, broken: dict[str, str]) -> None:
    authority.revoke()
    names = {"ca": authority.path, "crl": str(authority.folder / "crl.pem")}
    settings = {"type": "tls", "bind": "127.0.0.1:0"}
    settings["certificate"], settings["key"] = authority.issue("server", "mqtt.test")
    settings |= {key: names.get(value, value) for key, value in broken.items()}
    with pytest.raises(TlsError, match="listener"):
        TlsContexts(Listener(**settings))  # type: ignore[arg-type]


def test_encrypted_key_is_refused_without_asking(authority: Authority) -> None:
    settings = listener(authority)
    command = ["openssl", "pkcs8", "-topk8", "-in", settings.key, "-passout", "pass:secret", "-out", settings.key + "2"]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(TlsError, match="cannot be used"):
        TlsContexts(Listener(type="tls", bind="x:1", certificate=settings.certificate, key=settings.key + "2"))


def test_expiry_of_long_lived_certificates(authority: Authority) -> None:
    certificate, key = authority.issue("long", "mqtt.test", days=40 * 365)  # after 2049: GeneralizedTime
    contexts = TlsContexts(Listener(type="tls", bind="x:1", certificate=certificate, key=key))
    assert contexts.expires_at == NOW.timestamp() + 40 * 365 * 86400
