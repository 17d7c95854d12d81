"""paho-mqtt as a peer of the interoperability tests: commands on stdin, events on stdout (see peers.py)."""

from __future__ import annotations

import json
import ssl
import sys
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.interop.paho_properties import made, told


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def message_event(message: paho.MQTTMessage) -> dict[str, Any]:
    return {
        "event": "message", "topic": message.topic, "payload": message.payload.decode("latin-1"),
        "qos": message.qos, "retain": bool(message.retain), "properties": told(message.properties),
    }  # fmt: skip


def make(options: dict[str, Any]) -> paho.Client:
    five = options["version"] == 5
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        options["client_id"],
        clean_session=None if five else options["clean"],
        protocol=paho.MQTTProtocolVersion(options["version"]),
        transport="websockets" if options["transport"] == "ws" else "tcp",
        reconnect_on_failure=False,
    )
    if options["transport"] == "ws":
        client.ws_set_options(path="/mqtt")
    if options["transport"] == "tls":
        client.tls_set_context(ssl.create_default_context(cafile=options["ca"]))
    if will := options.get("will"):
        client.will_set(
            will["topic"], will["payload"].encode("latin-1"), will["qos"], will["retain"],
            made(PacketTypes.WILLMESSAGE, will.get("properties")),
        )  # fmt: skip
    client.on_connect = lambda c, d, flags, reason, p: say(
        event="connected", session_present=flags.session_present, reason=reason.value
    )
    client.on_subscribe = lambda c, d, mid, reasons, p: say(event="subscribed", reasons=[r.value for r in reasons])
    client.on_publish = lambda c, d, mid, reason, p: say(event="published")
    client.on_message = lambda c, d, message: say(**message_event(message))
    client.on_disconnect = lambda c, d, flags, reason, p: say(event="closed", reason=reason.value)
    return client


def obey(client: paho.Client, five: bool, command: dict[str, Any]) -> None:
    if command["do"] == "subscribe":
        if five:
            options = SubscribeOptions(command["qos"])
            values = made(PacketTypes.SUBSCRIBE, command.get("properties"))
            client.subscribe(command["filter"], options=options, properties=values)
        else:
            client.subscribe(command["filter"], command["qos"])
    elif command["do"] == "publish":
        client.publish(
            command["topic"], command["payload"].encode("latin-1"), command["qos"], command["retain"],
            made(PacketTypes.PUBLISH, command.get("properties")),
        )  # fmt: skip
    else:
        client.disconnect()


def main() -> None:
    options = json.loads(sys.argv[1])
    five = options["version"] == 5
    client = make(options)
    wanted = dict(options.get("properties") or {})
    if five and not options["clean"]:
        wanted["SessionExpiryInterval"] = 3600
    client.connect(
        "localhost", options["port"], clean_start=options["clean"] if five else paho.MQTT_CLEAN_START_FIRST_ONLY,
        properties=made(PacketTypes.CONNECT, wanted),
    )  # fmt: skip
    client.loop_start()
    for line in sys.stdin:
        obey(client, five, json.loads(line))
    client.loop_stop()


main()
