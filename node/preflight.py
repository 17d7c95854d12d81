"""All that can be said about a configuration before a process starts: `mqnode config check`, and what `mqnode start` refuses.

The keys, the files they name, users and rules, TLS, and which doors stand open. Nothing is listened to or written.
"""

from __future__ import annotations

import time
from pathlib import Path

from node.auth.security import check_security
from node.config import ConfigError, Loaded, read
from node.config.files import check_files
from node.listeners.filters import ListenError
from node.listeners.sockets import filter_factory

_EXPIRY_WARNING_S = 14 * 86_400


def preflight(path: str | Path | None) -> tuple[Loaded, list[str]]:
    """The configuration of the file at `path`, and warnings. Raises ConfigError. A host does not stay down for what the cluster
    has set: it goes without that."""
    loaded = read(path)
    left_out = [f"{text} The cluster has set that; this host goes without it." for _, text in loaded.unusable]
    try:
        return loaded, left_out + check_loaded(loaded)
    except ConfigError as error:
        if not loaded.cluster:
            raise
        alone = read(path, cluster={})
        text = f"{error} So it is with what the cluster has set: this host goes without all of that."
        return alone, [text, *check_loaded(alone)]


def check_loaded(loaded: Loaded) -> list[str]:
    """Warnings. Raises ConfigError."""
    check_files(loaded.config, loaded.places)
    _check_secret(loaded)
    return check_security(loaded.config) + _check_certificates(loaded)


def _check_secret(loaded: Loaded) -> None:
    if not (path := loaded.config.discovery.secret_file):
        return
    from mesh import secret  # not for a host that looks for nobody: it takes ZeroMQ

    try:
        secret.load(Path(path))
    except secret.SecretError as error:
        raise ConfigError(f"{loaded.places.nearest(('discovery', 'secret_file'))}: {error}") from error


def _check_certificates(loaded: Loaded) -> list[str]:
    warnings = []
    for index, listener in enumerate(loaded.config.listeners):
        try:
            expires_at = filter_factory(listener, loaded.config.limits).certificate_expires_at
        except ListenError as error:
            raise ConfigError(f"{loaded.places.nearest(('listeners', index))}: {error}") from error
        if expires_at is None or (left_s := expires_at - time.time()) > _EXPIRY_WARNING_S:
            continue
        when = "has expired" if left_s < 0 else f"expires in {left_s / 86_400:.0f} days"
        warnings.append(
            f"listener {listener.name or listener.bind}: a certificate {when}: clients will refuse it. "
            f"Replace the file ({listener.certificate}), then: mqnode reload"
        )
    return warnings
