//! A saga as JSON.

use leveret_core::time::Timestamp;
use serde_json::{Value, json};

use super::{Course, Entry, Missing, Rules};

impl Course {
    /// All that is known of it: state, reasons, entries with who reacted to each, what is missing, what was late.
    pub fn shown(&self, rules: &Rules, now: Timestamp) -> Value {
        let mut shown = self.summary(rules, now);
        let entries: Vec<Value> = self.entries.iter().map(|entry| self.entry(entry)).collect();
        let missing = self.missing(rules);
        let missing: Vec<Value> = missing.iter().map(|missing| one(missing, now)).collect();
        shown["entries"] = entries.into();
        shown["missing"] = missing.into();
        shown["late"] = json!(self.late);
        shown
    }

    /// What a list shows of it.
    pub fn summary(&self, rules: &Rules, now: Timestamp) -> Value {
        let reasons = self.reasons(rules, now);
        let time = |entry: Option<&Entry>| entry.map(|entry| entry.timestamp.to_string());
        json!({
            "correlationId": self.correlation_id,
            "state": self.state(rules, now).as_str(),
            "end": self.end(rules),
            "reason": reasons.first(),
            "reasons": reasons,
            "events": self.entries.len() as u64 + self.more,
            "eventsNotShown": self.more,
            "startedAt": time(self.entries.first()),
            "lastEventAt": time(self.entries.iter().max_by_key(|entry| entry.timestamp)),
        })
    }

    fn entry(&self, entry: &Entry) -> Value {
        let reacted = self.reactions(entry).map(|reaction| {
            json!({
                "source": reaction.source,
                "type": reaction.event_type,
                "eventId": reaction.event_id,
            })
        });
        let mut shown = json!(entry);
        shown["reactedBy"] = reacted.collect::<Vec<_>>().into();
        shown
    }
}

fn one(missing: &Missing, now: Timestamp) -> Value {
    json!({
        "expectation": missing.expectation,
        "oneOf": missing.one_of,
        "since": missing.since.to_string(),
        "due": missing.due.to_string(),
        "overdue": missing.due <= now,
        "reason": missing.reason,
    })
}
