"""Whether the files that a configuration names can be read, told by the line that names them.

Apart from `read`: it needs the rights of the service's user, which a command that only shows something may not have.
"""

from __future__ import annotations

from collections.abc import Iterator

from node.config.errors import ConfigError
from node.config.keys import CLUSTER, Config
from node.config.places import Key, Places, dotted

_USERS = "Make it with: mqnode users add USER"
_RIGHTS = "Correct the path; the user of the service must be able to read the file"


def check_files(config: Config, places: Places) -> None:
    """Raises ConfigError: one line for each file that cannot be read."""
    faults = []
    for key, path, remedy in named_files(config):
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            faults.append(f"{places.nearest(key)}: {dotted(key)}: {path} cannot be read: {error.strerror}. {remedy}.")
    if faults:
        raise ConfigError("\n".join(faults))


def named_files(config: Config) -> Iterator[tuple[Key, str, str]]:
    """Key, path, and what to do if it cannot be read."""
    for name, remedy in (("password_file", _USERS), ("acl_file", _RIGHTS)):
        if (path := getattr(config.auth, name)) and path != CLUSTER:
            yield ("auth", name), path, remedy
    for section, table, names in (
        ("jwt", config.auth.jwt, ("keys_file", "secret_file", "ca_file")),
        ("introspection", config.auth.introspection, ("client_secret_file", "ca_file")),
    ):
        for name in names:
            if path := getattr(table, name):
                yield ("auth", section, name), path, _RIGHTS
    if path := config.discovery.s3_credentials_file:
        yield ("discovery", "s3_credentials_file"), path, _RIGHTS
    for index, listener in enumerate(config.listeners):
        key: Key = ("listeners", index)
        for name in ("certificate", "key", "client_ca", "client_crl"):
            if path := getattr(listener, name):
                yield (*key, name), path, _RIGHTS
        for pair in listener.sni.values():
            for path in pair:
                yield (*key, "sni"), path, _RIGHTS
