"""aiomqtt as a peer of the interoperability tests: commands on stdin, events on stdout (see peers.py)."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes

from tests.interop.paho_properties import made, told


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def make(options: dict[str, Any]) -> aiomqtt.Client:
    five = options["version"] == 5
    will = options.get("will")
    return aiomqtt.Client(
        "localhost", options["port"], identifier=options["client_id"],
        protocol=aiomqtt.ProtocolVersion.V5 if five else aiomqtt.ProtocolVersion.V311,
        clean_session=None if five else options["clean"],
        clean_start=options["clean"] if five else MQTT_CLEAN_START_FIRST_ONLY,
        properties=made(PacketTypes.CONNECT, {"SessionExpiryInterval": 3600} if five and not options["clean"] else {}),
        transport="websockets" if options["transport"] == "ws" else "tcp",
        websocket_path="/mqtt" if options["transport"] == "ws" else None,
        will=will and aiomqtt.Will(will["topic"], will["payload"].encode("latin-1"), will["qos"], will["retain"]),
    )  # fmt: skip


async def listen(client: aiomqtt.Client) -> None:
    try:
        async for message in client.messages:
            say(
                event="message", topic=str(message.topic), payload=bytes(message.payload).decode("latin-1"),
                qos=message.qos, retain=bool(message.retain),
                properties=told(message.properties),
            )  # fmt: skip
    except aiomqtt.MqttError as error:
        say(event="closed", reason=str(error))


async def obey(client: aiomqtt.Client, command: dict[str, Any]) -> None:
    if command["do"] == "subscribe":
        values = made(PacketTypes.SUBSCRIBE, command.get("properties"))
        reasons = await client.subscribe(command["filter"], command["qos"], properties=values)
        say(event="subscribed", reasons=[getattr(reason, "value", reason) for reason in reasons])
    elif command["do"] == "publish":
        await client.publish(
            command["topic"], command["payload"].encode("latin-1"), command["qos"], command["retain"],
            made(PacketTypes.PUBLISH, command.get("properties")), timeout=20,
        )  # fmt: skip
        say(event="published")


async def main() -> None:
    options = json.loads(sys.argv[1])
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    client = make(options)
    async with client:
        say(event="connected", session_present=None, reason=0)  # the library does not tell
        listening = asyncio.create_task(listen(client))
        while line := await reader.readline():
            command = json.loads(line)
            if command["do"] == "disconnect":
                break
            await obey(client, command)
        listening.cancel()
    say(event="closed", reason=0)


asyncio.run(main())
