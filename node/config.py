"""The configuration: TOML into strict structs. Unknown keys are errors; every bound is declared here with its unit.

Owns names, defaults, ranges and the checks between keys. Must not know any process, socket or store.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

UInt = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]


class ConfigError(Exception):
    """The configuration cannot be used; the text names the key, the cause and the way out."""


class _Section(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    pass


class Node(_Section, frozen=True):
    name: str = ""  # default: the host's name
    data_dir: str = "/var/lib/mqnode"
    run_dir: str = ""  # unix sockets and counters; default: data_dir + "/run"
    workers: Annotated[int, Meta(ge=0, le=48)] = 0  # 0: the number of cores


class Listener(_Section, frozen=True):
    type: Literal["tcp", "tls", "ws", "wss", "unix"]
    bind: str  # "ADDRESS:PORT", "[IPV6]:PORT", or a path for unix
    name: str = ""  # default: the bind address
    allow_anonymous: bool | None = None  # default: auth.allow_anonymous
    max_connections: UInt = 0  # of this listener, on this host; 0: no limit
    protocol_versions: tuple[Literal[3, 4, 5], ...] = (3, 4, 5)  # 3 = MQTT 3.1, 4 = 3.1.1, 5 = 5.0
    # tls, wss
    certificate: str = ""
    key: str = ""
    client_ca: str = ""  # client certificates are asked for when set
    client_certificate: Literal["none", "optional", "required"] = "none"
    client_crl: str = ""
    identity: Literal["none", "cn", "san_dns", "san_uri", "san_email"] = "none"  # user name from the certificate
    sni: dict[str, tuple[str, str]] = {}  # server name -> (certificate, key)
    min_tls: Literal["1.2", "1.3"] = "1.2"
    # ws, wss
    path: str = "/mqtt"
    origins: tuple[str, ...] = ()  # allowed Origin headers; empty: any
    # proxy protocol
    proxy_protocol: Literal["off", "required"] = "off"
    proxy_networks: tuple[str, ...] = ()  # only these may connect to a listener with proxy_protocol
    # unix
    mode: str = "0660"


class Auth(_Section, frozen=True):
    allow_anonymous: bool | None = None  # None: only on loopback listeners, and only while no users are configured
    password_file: str = ""
    acl_file: str = ""
    scram: bool = True  # SCRAM-SHA-256 (MQTT 5 enhanced authentication), for users of password_file with a verifier
    check_retain_source: bool = True
    cache_ttl_s: Seconds = 300
    connect_rate_per_address: UInt = 0  # failed CONNECTs a minute from one address before it is refused; 0: no limit


class Limits(_Section, frozen=True):
    connect_timeout_s: Seconds = 10
    max_keepalive_s: UInt = 65535  # S07; larger or 0 asked for: the server's value is told (v5) or applied (v3)
    max_packet_bytes: Annotated[int, Meta(ge=256, le=268_435_455)] = 2_097_152
    max_connect_bytes: Annotated[int, Meta(ge=256, le=268_435_455)] = 32_768  # of the packets before CONNACK (S05)
    max_topic_levels: Annotated[int, Meta(ge=1, le=1024)] = 128
    max_topic_bytes: Annotated[int, Meta(ge=1, le=65535)] = 4096
    max_client_id_bytes: Annotated[int, Meta(ge=23, le=65535)] = 1024
    max_user_properties: UInt = 64
    max_subscriptions_per_client: UInt = 100_000
    receive_maximum: Annotated[int, Meta(ge=1, le=65535)] = 1024  # QoS 1/2 a client may have open towards us
    max_inflight: Annotated[int, Meta(ge=1, le=65535)] = 1024  # QoS 1/2 open towards a client that names no maximum
    topic_alias_maximum: Annotated[int, Meta(ge=0, le=65535)] = 64
    max_session_expiry_s: UInt = 0xFFFFFFFF  # 0xFFFFFFFF: never
    max_queued_messages: UInt = 100_000  # for each session
    max_queued_bytes: UInt = 268_435_456  # for each session
    queue_policy: Literal["drop_new", "drop_oldest", "refuse"] = "drop_new"
    max_retained_messages: UInt = 10_000_000
    max_retained_bytes: UInt = 2_097_152  # of one retained message
    max_output_bytes: Annotated[int, Meta(ge=65536)] = 4_194_304  # unsent of a connection before its publishers wait
    max_worker_output_bytes: Annotated[int, Meta(ge=1_048_576)] = 536_870_912  # of all connections of a worker
    slow_subscriber_s: Seconds = 10  # a subscriber that takes nothing for so long no longer holds its publishers back
    max_connections: UInt = 0  # of each worker; 0: as many as there are file descriptors
    message_expiry_s: UInt = 0  # cap for every message; 0: none


class Shared(_Section, frozen=True):
    strategy: Literal["round_robin", "random", "sticky", "hash_client", "hash_topic"] = "round_robin"


class Store(_Section, frozen=True):
    map_bytes: Annotated[int, Meta(ge=1_048_576)] = 1_073_741_824  # at first; grows by itself
    max_map_bytes: Annotated[int, Meta(ge=1_048_576)] = 1_099_511_627_776
    commit_interval_ms: Annotated[float, Meta(ge=0, le=1000)] = 0.0  # wait for more work before a commit
    commit_max_ops: Positive = 4096
    disk_high_water_percent: Annotated[int, Meta(ge=1, le=100)] = 85  # above: new messages for queues are refused
    ballast_bytes: UInt = 67_108_864  # reserved so that deletes work on a full disk


class Sys(_Section, frozen=True):
    interval_s: Annotated[float, Meta(ge=0)] = 10  # $SYS/broker/...; 0: off


class Admin(_Section, frozen=True):
    bind: str = "127.0.0.1:8883"
    token_file: str = ""  # default: data_dir + "/admin.token", made at first start with mode 0600


class Log(_Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"
    access: bool = True


class Config(_Section, frozen=True):
    node: Node = field(default_factory=Node)
    listeners: tuple[Listener, ...] = (
        Listener(type="tcp", bind="127.0.0.1:1883"),
        Listener(type="tcp", bind="[::1]:1883"),
    )
    auth: Auth = field(default_factory=Auth)
    limits: Limits = field(default_factory=Limits)
    shared: Shared = field(default_factory=Shared)
    store: Store = field(default_factory=Store)
    sys: Sys = field(default_factory=Sys)
    admin: Admin = field(default_factory=Admin)
    log: Log = field(default_factory=Log)


def load(path: str | Path | None, environ: dict[str, str] | None = None) -> Config:
    """The configuration of the file at `path` (None: the defaults). Raises ConfigError."""
    document: dict[str, Any] = {}
    if path is not None:
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return msgspec.convert(document, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error


def worker_count(config: Config) -> int:
    return config.node.workers or len(os.sched_getaffinity(0))


def run_dir(config: Config) -> Path:
    return Path(config.node.run_dir or Path(config.node.data_dir) / "run")
