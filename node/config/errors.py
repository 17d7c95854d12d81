"""The one error of the configuration."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration cannot be used. One line a fault: place, key, cause and the way out."""
