// mqtt.js as a peer of the interoperability tests: commands on stdin, events on stdout (see peers.py).
"use strict";
const mqtt = require("mqtt");
const readline = require("readline");

const NAMES = {
  ContentType: "contentType", ResponseTopic: "responseTopic", CorrelationData: "correlationData",
  UserProperty: "userProperties", MessageExpiryInterval: "messageExpiryInterval",
  PayloadFormatIndicator: "payloadFormatIndicator", TopicAlias: "topicAlias",
  SubscriptionIdentifier: "subscriptionIdentifier",
};

const say = (event) => process.stdout.write(JSON.stringify(event) + "\n");

function properties(values) {
  const found = {};
  for (const [name, value] of Object.entries(values || {})) {
    if (name === "UserProperty") {
      found.userProperties = {};
      for (const [key, each] of value) {
        found.userProperties[key] = (found.userProperties[key] || []).concat([each]);
      }
    } else if (name === "CorrelationData") found.correlationData = Buffer.from(value, "hex");
    else if (name === "PayloadFormatIndicator") found.payloadFormatIndicator = Boolean(value);
    else found[NAMES[name]] = value;
  }
  return found;
}

function told(values) {
  const found = {};
  for (const [name, ours] of Object.entries(NAMES)) {
    const value = (values || {})[ours];
    if (value === undefined) continue;
    if (name === "UserProperty") {
      found[name] = Object.entries(value).flatMap(([key, each]) => [].concat(each).map((one) => [key, one]));
    } else if (name === "SubscriptionIdentifier") found[name] = [].concat(value);
    else if (name === "PayloadFormatIndicator") found[name] = Number(value);
    else found[name] = Buffer.isBuffer(value) ? value.toString("hex") : value;
  }
  return found;
}

const options = JSON.parse(process.argv[2]);
const five = options.version === 5;
function connectProperties() {
  const found = {};
  if (!options.clean) found.sessionExpiryInterval = 3600;
  if (options.aliases) found.topicAliasMaximum = options.aliases;
  return found;
}
const url = (options.transport === "ws" ? "ws" : "mqtt") + "://127.0.0.1:" + options.port +
  (options.transport === "ws" ? "/mqtt" : "");
const client = mqtt.connect(url, {
  protocolVersion: options.version,
  protocolId: options.version === 3 ? "MQIsdp" : "MQTT",
  clientId: options.client_id,
  clean: options.clean,
  reconnectPeriod: 0,
  resubscribe: false,
  properties: five ? connectProperties() : undefined,
  will: options.will && {
    topic: options.will.topic, payload: Buffer.from(options.will.payload, "latin1"), qos: options.will.qos,
    retain: options.will.retain,
  },
});

client.on("connect", (ack) =>
  say({ event: "connected", session_present: ack.sessionPresent, reason: five ? ack.reasonCode : ack.returnCode }));
client.on("error", (error) => say({ event: "closed", reason: String(error) }));
client.on("close", () => say({ event: "closed", reason: 0 }));
client.on("message", (topic, payload, packet) =>
  say({ event: "message", topic, payload: payload.toString("latin1"), qos: packet.qos, retain: packet.retain,
        properties: told(packet.properties) }));

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  if (command.do === "subscribe") {
    const wanted = { qos: command.qos };
    if (five) wanted.properties = properties(command.properties);
    client.subscribe(command.filter, wanted, (error, granted, packet) =>
      say({ event: "subscribed", reasons: error ? [128] : granted.map((each) => each.qos) }));
  } else if (command.do === "publish") {
    const wanted = { qos: command.qos, retain: command.retain };
    if (five) wanted.properties = properties(command.properties);
    client.publish(command.topic, Buffer.from(command.payload, "latin1"), wanted, (error) =>
      say(error ? { event: "failed", reason: String(error) } : { event: "published" }));
  } else client.end();
}).on("close", () => process.exit(0));
