"""Listening sockets of the configuration, and the filters that each new connection of them needs.

TCP: one socket a worker and address, spread by the kernel (SO_REUSEPORT); what is set on it, accepted ones inherit.
A unix socket has one owner: worker 0.
All are bound, listening, non-blocking and close-on-exec. Must not know what comes after accept.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path

from node import config
from node.config import Limits, Listener
from node.listeners.filters import Chain, Filter, ListenError
from node.listeners.proxy_protocol import ProxyProtocolFilter, check_peer

BACKLOG = 4096  # the kernel takes the smaller of this and net.core.somaxconn
UNACKNOWLEDGED_MS = 20_000  # what a client does not acknowledge for so long ends its connection
Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
_PATH_MAX_BYTES = 107  # sockaddr_un


def open_listener(listener: Listener) -> list[socket.socket]:
    """The bound and listening sockets of `listener`: one for each address its name has. Raises ListenError."""
    if listener.type == "unix":
        return [_open_unix(Path(listener.bind), int(listener.mode, 8))]
    opened: list[socket.socket] = []
    try:
        for family, address in _addresses(listener.bind):
            opened.append(_open_tcp(family, address, listener.bind, shared=True))
    except ListenError:
        for each in opened:
            each.close()
        raise
    return opened


def check_free(bind: str) -> None:
    """Raise ListenError if another program has the TCP address `bind`: SO_REUSEPORT alone would share it silently."""
    for family, address in _addresses(bind):
        _open_tcp(family, address, bind, shared=False).close()


def split_bind(bind: str) -> tuple[str, int]:
    """`ADDRESS:PORT` or `[IPV6]:PORT` in its parts. Raises ListenError."""
    try:
        return config.split_bind(bind)
    except ValueError as error:
        raise ListenError(f"bind = {error}") from None


def _addresses(bind: str) -> list[tuple[int, Address]]:
    host, port = split_bind(bind)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ListenError(
            f"{bind}: the name has no address ({error.strerror}): nothing listens there. Write an address of this host."
        ) from error
    return [(family, address) for family, _, _, _, address in found]


def _new_socket(family: int) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)  # close-on-exec by default
    opened.setblocking(False)
    return opened


def _open_tcp(family: int, address: Address, bind: str, shared: bool) -> socket.socket:
    opened = _new_socket(family)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        if shared:
            opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise ListenError(_explain(bind, error)) from error
    return opened


def _explain(bind: str, error: OSError) -> str:
    port = split_bind(bind)[1]
    if error.errno == errno.EADDRINUSE:
        way_out = f"Another program has it; `ss -ltnp sport = :{port}` names it. Stop that one or change `bind`."
    elif error.errno == errno.EACCES:
        way_out = (
            f"Ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher port than {port}, or add to the unit, with "
            "`systemctl edit mqnode`, under [Service]: PrivateUsers=false, CapabilityBoundingSet=CAP_NET_BIND_SERVICE and "
            "AmbientCapabilities=CAP_NET_BIND_SERVICE, each on a line of its own."
        )
    elif error.errno == errno.EADDRNOTAVAIL:
        way_out = "No interface of this host has the address; `ip address` lists those it has."
    elif error.errno == errno.EAFNOSUPPORT:
        way_out = "This host has no IPv6: remove the listener from the configuration."
    else:
        way_out = "Check `bind` of this listener."
    return f"{bind}: cannot listen: {error.strerror}. {way_out}"


def _open_unix(path: Path, mode: int) -> socket.socket:
    """Made under another name with its mode, then renamed: no client meets it half made, no stale path stays."""
    _refuse_live(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if len(os.fsencode(temporary)) > _PATH_MAX_BYTES:
        raise ListenError(f"{path}: longer than a unix socket's path may be. Choose a path of 90 bytes or less.")
    opened = _new_socket(socket.AF_UNIX)
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()
        opened.bind(os.fspath(temporary))
        temporary.chmod(mode)
        opened.listen(BACKLOG)
        temporary.rename(path)
    except OSError as error:
        opened.close()
        with suppress(OSError):
            temporary.unlink()
        raise ListenError(
            f"{path}: cannot make the socket: {error.strerror}. "
            f"`ls -ld {path.parent}` must show a directory that user {os.getuid()} may write to."
        ) from error
    return opened


def _refuse_live(path: Path) -> None:
    """Raise ListenError unless `path` is free, or a socket that nobody answers."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"{path}: exists and is no socket; it is left alone. Remove it or change `bind`.")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(
            f"{path}: cannot be looked at: {error.strerror}. Check the rights of its directory."
        ) from error
    with _new_socket(socket.AF_UNIX) as probe:
        result = probe.connect_ex(os.fspath(path))
    if result not in (errno.ECONNREFUSED, errno.ENOENT):
        raise ListenError(f"{path}: another program answers there; `ss -lxp src {path}` names it. Stop it first.")


def filter_factory(listener: Listener, limits: Limits) -> FilterFactory:
    """What gives each new connection of `listener` its filter. Raises ListenError."""
    return FilterFactory(listener, limits)


class FilterFactory:
    """Called for each accepted connection with its peer, as the core writes it: HOST:PORT, [IPV6]:PORT, or unix."""

    def __init__(self, listener: Listener, limits: Limits) -> None:
        self._listener = listener
        self._limits = limits
        self._tls = self._websocket = None
        if listener.type in ("tls", "wss"):
            # Not above, as WebSocket below: without such listeners no process shall load them at its start
            from node.listeners.tls import TlsContexts

            self._tls = TlsContexts(listener)
        if listener.type in ("ws", "wss"):
            from node.listeners.websocket import WebSocketFilter

            self._websocket = partial(WebSocketFilter, listener.path, listener.origins, limits.max_packet_bytes)
        self._proxied = listener.proxy_protocol == "required"
        try:
            self._networks = tuple(ipaddress.ip_network(each) for each in listener.proxy_networks)
        except ValueError as error:
            raise ListenError(
                f"listener {listener.bind}: proxy_networks: {error}. Write 10.0.0.0/8 or 10.1.2.3."
            ) from error
        if self._proxied and not self._networks and listener.type != "unix":
            raise ListenError(
                f"listener {listener.bind}: proxy_protocol needs proxy_networks: else anybody could claim any address. "
                "Name the load balancers' addresses."
            )
        if self._tls is None and listener.identity != "none" and not (self._proxied and listener.identity == "cn"):
            raise ListenError(
                f'listener {listener.bind}: identity = "{listener.identity}" needs TLS here, or "cn" from a proxy in '
                "front. Change `type` or `identity`."
            )

    def __call__(self, peer: str) -> Filter | None:
        """None: the socket speaks MQTT itself. Raises FilterError for a peer that is not welcome."""
        filters: list[Filter] = []
        if self._proxied:
            if self._listener.type != "unix":
                check_peer(peer, self._networks)
            filters.append(ProxyProtocolFilter(self._tls is None and self._listener.identity == "cn"))
        if self._tls is not None:
            filters.append(self._tls.filter())
        if self._websocket is not None:
            filters.append(self._websocket())
        return Chain(filters) if len(filters) > 1 else filters[0] if filters else None

    def reload(self) -> None:
        """Read certificates, keys and revocation lists anew. Raises TlsError, and then nothing has changed."""
        if self._tls is not None:
            self._tls.reload()

    @property
    def certificate_expires_at(self) -> float | None:
        """When the first of the listener's certificates expires, in seconds since the epoch; None without TLS."""
        return None if self._tls is None else self._tls.expires_at
