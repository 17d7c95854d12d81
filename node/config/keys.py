"""The keys of the configuration: their names, types, ranges and defaults, each declared here only, with its unit.

Secrets have no key: they stand in files that a key names (`password_file`, `token_file`), so that a configuration can be
shown to anybody. A new key also needs its lines in deploy/mqnode.reference.toml; a test tells.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Count = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 46)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
PacketBytes = Annotated[int, Meta(ge=256, le=268_435_455)]  # what MQTT's remaining length can say
MapBytes = Annotated[int, Meta(ge=1_048_576, le=1 << 46)]  # half of a process's address space

# In the place of a path: users and rules are in the store, the same on all hosts (docs/decisions/0011-settings.md)
CLUSTER = "cluster"

Operation = Literal["connect", "publish", "subscribe", "unsubscribe"]


class _Section(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    pass


class Node(_Section, frozen=True):
    name: str = ""  # default: the host's name
    data_dir: str = "/var/lib/mqnode"
    run_dir: str = ""  # unix sockets and counters; default: data_dir + "/run"
    workers: Annotated[int, Meta(ge=0, le=48)] = 0  # 0: the number of cores
    drain_s: Annotated[float, Meta(ge=0, le=3600)] = 15  # of a stop: clients go first


class Listener(_Section, frozen=True):
    type: Literal["tcp", "tls", "ws", "wss", "unix"]
    bind: str  # "ADDRESS:PORT", "[IPV6]:PORT", or a path for unix
    name: str = ""  # default: the bind address
    advertise: str = ""  # "HOST:PORT" for MQTT 5 clients that another host sends here; empty: they are not told where
    allow_anonymous: bool | None = None  # default: auth.allow_anonymous
    max_connections: Count = 0  # of this listener, in each worker; 0: no limit
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
    mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] = "0660"


Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]  # fmt: skip


class Jwt(_Section, frozen=True):
    """[auth.jwt]: in force once any key of it is set."""

    issuer: str = ""
    audience: str = ""
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")
    keys_file: str = ""  # public keys: PEM or JWKS
    jwks_url: str = ""
    secret_file: str = ""  # for HS*, mode 0600
    user_claim: str = "sub"
    refresh_s: Annotated[float, Meta(ge=1, le=86_400)] = 300  # of jwks_url
    ca_file: str = ""  # of jwks_url; empty: the system's authorities

    @property
    def on(self) -> bool:
        return self != Jwt()


class Introspection(_Section, frozen=True):
    """[auth.introspection], RFC 7662: in force once any key of it is set."""

    url: str = ""
    client_id: str = ""
    client_secret_file: str = ""  # mode 0600
    audience: str = ""
    user_claim: str = "sub"
    cache_s: Seconds = 60  # of "active"; never beyond the token's exp
    timeout_s: Annotated[float, Meta(gt=0, le=30)] = 2
    ca_file: str = ""  # empty: the system's authorities

    @property
    def on(self) -> bool:
        return self != Introspection()


class Auth(_Section, frozen=True):
    allow_anonymous: bool | None = None  # None: only on loopback listeners, and only while no users are configured
    password_file: str = ""
    acl_file: str = ""
    scram: bool = True  # SCRAM-SHA-256 (MQTT 5 enhanced authentication), for users of password_file with a verifier
    check_retain_source: bool = True
    cache_ttl_s: Seconds = 300  # a verified password is not hashed again for so long; 0: always
    connect_rate_per_address: Count = 0  # failed CONNECTs a minute from one address before it is refused; 0: no limit
    jwt: Jwt = field(default_factory=Jwt)
    introspection: Introspection = field(default_factory=Introspection)

    @property
    def has_tokens(self) -> bool:
        return self.jwt.on or self.introspection.on


class Limits(_Section, frozen=True):
    connect_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 10
    # S07; larger or 0 asked for: the server's value is told (v5) or applied (v3)
    max_keepalive_s: Annotated[int, Meta(ge=1, le=65535)] = 65535
    max_packet_bytes: PacketBytes = 2_097_152
    max_connect_bytes: PacketBytes = 32_768  # of the packets before CONNACK (S05)
    max_topic_levels: Annotated[int, Meta(ge=1, le=1024)] = 128
    max_topic_bytes: Annotated[int, Meta(ge=1, le=65535)] = 4096
    max_client_id_bytes: Annotated[int, Meta(ge=23, le=65535)] = 1024
    max_user_properties: Count = 64  # of one packet
    max_subscriptions_per_client: Count = 100_000
    receive_maximum: Annotated[int, Meta(ge=1, le=65535)] = 1024  # QoS 1/2 a client may have open towards us
    max_inflight: Annotated[int, Meta(ge=1, le=65535)] = 1024  # QoS 1/2 open towards a client that names no maximum
    topic_alias_maximum: Annotated[int, Meta(ge=0, le=65535)] = 64
    max_session_expiry_s: Count = 0xFFFFFFFF  # 0xFFFFFFFF: never
    max_queued_messages: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)] = 100_000  # for each session
    max_queued_bytes: Bytes = 268_435_456  # for each session
    queue_policy: Literal["drop_new", "drop_oldest", "refuse"] = "drop_new"
    max_retained_messages: Count = 10_000_000
    max_retained_bytes: Bytes = 2_097_152  # of one retained message
    max_output_bytes: Annotated[int, Meta(ge=65536, le=1 << 46)] = (
        4_194_304  # unsent of a connection before its publishers wait
    )
    max_worker_output_bytes: Annotated[int, Meta(ge=1_048_576, le=1 << 46)] = (
        536_870_912  # of all connections of a worker
    )
    slow_subscriber_s: Seconds = 10  # a subscriber that takes nothing for so long no longer holds its publishers back
    max_connections: Count = 0  # of each worker; 0: as many as there are file descriptors
    message_expiry_s: Count = 0  # cap for every message; 0: none


class Shared(_Section, frozen=True):
    strategy: Literal["round_robin", "random", "sticky", "hash_client", "hash_topic"] = "round_robin"


class Store(_Section, frozen=True):
    map_bytes: MapBytes = 1_073_741_824  # at first; grows by itself
    max_map_bytes: MapBytes = 1_099_511_627_776
    disk_high_water_percent: Annotated[int, Meta(ge=1, le=100)] = 85  # above: new messages for queues are refused
    ballast_bytes: Bytes = 67_108_864  # reserved so that deletes work on a full disk


class Sys(_Section, frozen=True):
    interval_s: Seconds = 10  # $SYS/broker/...; 0: off


class Cluster(_Section, frozen=True):
    name: str = "mqnode"  # of a cluster that begins on this host
    ack_policy: Literal["available", "strict"] = "available"  # strict: never acknowledge with this host's copy alone
    on_owner_down: Literal["queue", "drop"] = "queue"  # messages for a session whose host is evicted
    allow_during_split: tuple[Operation, ...] = ("connect", "publish", "subscribe", "unsubscribe")


class Interconnect(_Section, frozen=True):
    bind: str = ""  # "ADDRESS:PORT" for other hosts, who need the four ports above it, too; empty: this host is alone
    advertise: str = ""  # "HOST:PORT" at which the others reach `bind`; default: `bind`


class Discovery(_Section, frozen=True):
    method: Literal["none", "static", "beacon", "dns", "etcd", "folder", "s3"] = "none"
    secret_file: str = ""  # of all hosts of the cluster; empty: what is found does not join by itself
    interval_s: Annotated[float, Meta(ge=1, le=3600)] = 5  # between two looks and announcements
    hosts: tuple[str, ...] = ()  # static: interconnect addresses
    multicast: str = "239.192.77.81:7000"  # beacon: the group
    dns_name: str = ""
    dns_servers: tuple[str, ...] = ()  # empty: those of the system
    etcd: tuple[str, ...] = ()  # URLs of the endpoints
    etcd_prefix: str = "/mqnode"
    folder: str = ""
    s3_url: str = ""  # https://ENDPOINT/BUCKET/PREFIX
    s3_region: str = "us-east-1"
    s3_credentials_file: str = ""


class Admin(_Section, frozen=True):
    bind: str = "127.0.0.1:8081"
    health_bind: str = (
        ""  # GET /live, /ready, /balancer and /metrics for others: load balancers, Prometheus; empty: only at `bind`
    )
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
    cluster: Cluster = field(default_factory=Cluster)
    interconnect: Interconnect = field(default_factory=Interconnect)
    discovery: Discovery = field(default_factory=Discovery)
    admin: Admin = field(default_factory=Admin)
    log: Log = field(default_factory=Log)
