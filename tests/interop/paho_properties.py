"""MQTT 5 properties of paho-mqtt, which aiomqtt shares: from and to the form of the drivers' commands and events."""

from __future__ import annotations

from typing import Any

from paho.mqtt.properties import Properties


def made(kind: int, values: dict[str, Any] | None) -> Properties | None:
    """For a packet of type `kind`; binary values come as hexadecimal digits."""
    if not values:
        return None
    found = Properties(kind)
    for name, value in values.items():
        if name == "UserProperty":
            value = [tuple(pair) for pair in value]
        elif name == "CorrelationData":
            value = bytes.fromhex(value)
        setattr(found, name, value)
    return found


def told(found: Properties | None) -> dict[str, Any]:
    return found.json() if found is not None else {}
