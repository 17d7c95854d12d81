"""gmqtt as a peer of the interoperability tests: commands on stdin, events on stdout (see peers.py)."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

# The specification's names, as the tests say them, and gmqtt's
NAMES = {
    "ContentType": "content_type", "ResponseTopic": "response_topic", "CorrelationData": "correlation_data",
    "UserProperty": "user_property", "MessageExpiryInterval": "message_expiry_interval",
    "PayloadFormatIndicator": "payload_format_id", "TopicAlias": "topic_alias",
    "SubscriptionIdentifier": "subscription_identifier",
}  # fmt: skip


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def properties(values: dict[str, Any] | None) -> dict[str, Any]:
    found = {NAMES[name]: value for name, value in (values or {}).items()}
    if "user_property" in found:
        found["user_property"] = [tuple(pair) for pair in found["user_property"]]
    if "correlation_data" in found:
        found["correlation_data"] = bytes.fromhex(found["correlation_data"])
    return found


def told(values: dict[str, Any]) -> dict[str, Any]:
    """The properties of a message under the specification's names."""
    found = {}
    for name, ours in NAMES.items():
        value = values.get(ours)
        if value:
            if name not in ("UserProperty", "SubscriptionIdentifier"):
                value = value[0]
            found[name] = value.hex() if isinstance(value, bytes) else value
    return found


def make(options: dict[str, Any]) -> gmqtt.Client:
    will = options.get("will")
    expiry = {"session_expiry_interval": 3600} if options["version"] == 5 and not options["clean"] else {}
    aliases = {"topic_alias_maximum": options["aliases"]} if options["aliases"] else {}
    client = gmqtt.Client(
        options["client_id"], clean_session=options["clean"], **expiry, **aliases,
        will_message=will and gmqtt.Message(
            will["topic"], will["payload"].encode("latin-1"), will["qos"], will["retain"]),
    )  # fmt: skip
    client.set_config({"reconnect_retries": 0})
    client.on_connect = lambda c, flags, reason, p: say(event="connected", session_present=bool(flags), reason=reason)
    client.on_subscribe = lambda c, mid, reasons, p: say(event="subscribed", reasons=list(reasons))
    client.on_disconnect = lambda c, packet, exc=None: say(event="closed", reason=str(exc or 0))
    client.on_message = on_message
    return client


def on_message(client: gmqtt.Client, topic: str, payload: bytes, qos: int, values: dict[str, Any]) -> int:
    say(
        event="message", topic=topic, payload=payload.decode("latin-1"), qos=qos,
        retain=bool(values["retain"]), properties=told(values),
    )  # fmt: skip
    return 0


async def obey(client: gmqtt.Client, command: dict[str, Any]) -> None:
    if command["do"] == "subscribe":
        client.subscribe(command["filter"], command["qos"], **properties(command.get("properties")))
    elif command["do"] == "publish":
        client.publish(
            command["topic"], command["payload"].encode("latin-1"), command["qos"], command["retain"],
            **properties(command.get("properties")),
        )  # fmt: skip
        await asyncio.sleep(0)  # it stores what it sent in a task of its own
        await asyncio.wait_for(client._persistent_storage.wait_empty(), 20)
        say(event="published")


async def main() -> None:
    options = json.loads(sys.argv[1])
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    client = make(options)
    await client.connect("localhost", options["port"], version=MQTTv50 if options["version"] == 5 else MQTTv311)
    while line := await reader.readline():
        command = json.loads(line)
        if command["do"] == "disconnect":
            break
        await obey(client, command)
    await client.disconnect()
    say(event="closed", reason=0)


asyncio.run(main())
