//! The catalogue as an AsyncAPI 3.0 document (<https://www.asyncapi.com/docs/reference/specification/v3.0.0>, with the AMQP bindings 0.3.0).

use serde_json::{Map, Value, json};

use super::{Catalogue, EventType, Party, queue_name};

impl Catalogue {
    /// The document. A channel is a type of events; who publishes sends, who consumes receives from a queue of its own.
    pub fn asyncapi(&self, version: &str) -> Value {
        let mut channels = Map::new();
        let mut operations = Map::new();
        let mut messages = Map::new();
        for event in self.events {
            let key = component(event.name);
            channels.insert(key.clone(), channel(self.exchange, event, &key));
            messages.insert(key.clone(), message(event));
            let publisher = event.publisher;
            let send = operation("send", publisher, &key, event, None);
            operations.insert(format!("{}-sends-{key}", publisher.name), send);
            for &consumer in event.consumers {
                let queue = queue_name(consumer, event.name);
                let receive = operation("receive", consumer, &key, event, Some(&queue));
                operations.insert(format!("{}-receives-{key}", consumer.name), receive);
            }
        }
        json!({
            "asyncapi": "3.0.0",
            "info": { "title": self.title, "version": version },
            "defaultContentType": "application/json",
            "channels": channels,
            "operations": operations,
            "components": { "messages": messages },
        })
    }
}

fn component(event: &str) -> String {
    event.replace('.', "-")
}

fn channel(exchange: &str, event: &EventType, key: &str) -> Value {
    json!({
        "address": event.name,
        "messages": { key: { "$ref": format!("#/components/messages/{key}") } },
        "bindings": { "amqp": {
            "is": "routingKey",
            "exchange": { "name": exchange, "type": "topic", "durable": true, "autoDelete": false, "vhost": "/" },
            "bindingVersion": "0.3.0",
        } },
    })
}

fn operation(
    action: &str,
    party: Party,
    key: &str,
    event: &EventType,
    queue: Option<&str>,
) -> Value {
    let mut operation = json!({
        "action": action,
        "channel": { "$ref": format!("#/channels/{key}") },
        "summary": event.summary,
        "tags": [{ "name": party.source }],
        "messages": [{ "$ref": format!("#/channels/{key}/messages/{key}") }],
        "bindings": { "amqp": { "deliveryMode": 2, "mandatory": false, "ack": true, "bindingVersion": "0.3.0" } },
    });
    if let Some(queue) = queue {
        operation["x-queue"] = json!(queue);
    }
    operation
}

fn message(event: &EventType) -> Value {
    json!({
        "name": event.name,
        "summary": event.summary,
        "contentType": "application/json",
        "correlationId": { "location": "$message.payload#/correlationId" },
        "payload": {
            "type": "object",
            "additionalProperties": false,
            "required": [
                "eventId", "eventType", "eventVersion", "timestamp", "source", "correlationId", "causationId", "aggregate", "data"
            ],
            "properties": {
                "eventId": { "type": "string", "format": "uuid" },
                "eventType": { "const": event.name },
                "eventVersion": { "const": event.version },
                "timestamp": { "type": "string", "format": "date-time" },
                "source": { "type": "string", "examples": [event.publisher.source] },
                "correlationId": { "type": "string", "format": "uuid" },
                "causationId": { "type": ["string", "null"], "format": "uuid" },
                "aggregate": {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["id", "version"],
                    "properties": { "id": { "type": "string" }, "version": { "type": "integer", "minimum": 1 } },
                },
                "data": (event.data)(),
            },
        },
    })
}
