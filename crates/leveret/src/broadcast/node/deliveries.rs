//! Deliveries, decoded: writes of this cluster, or dead letters with the reason.

use std::{collections::BTreeSet, sync::Arc};

use leveret_core::broadcast::Logged;

use crate::{
    broadcast::wire::{Broadcast, Malformed, REASON_HEADER},
    broker::{Delivery, Header, Message, Publication, Receipt, dead_letter_queue_name},
};

/// The longest reason in a header, in characters.
const REASON_CHARS_MAX: usize = 300;

/// Deliveries that are handled together.
pub(super) struct Taken {
    cluster: Arc<str>,
    queue: Arc<str>,
    /// How many there are, letters included.
    pub(super) messages: usize,
    /// The writes, in the order of arrival.
    pub(super) entries: Vec<Logged>,
    /// The seqs whose outcomes somebody waits for.
    pub(super) wanted: BTreeSet<u64>,
    /// What is no write of this cluster.
    pub(super) letters: Vec<Publication>,
    /// The right to settle each of them.
    pub(super) receipts: Vec<Receipt>,
}

impl Taken {
    pub(super) fn new(cluster: Arc<str>, queue: Arc<str>) -> Taken {
        Taken {
            cluster,
            queue,
            messages: 0,
            entries: Vec::new(),
            wanted: BTreeSet::new(),
            letters: Vec::new(),
            receipts: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, delivery: Delivery) {
        self.messages += 1;
        match read(&delivery, &self.cluster) {
            Ok(broadcast) => {
                self.wanted.extend(broadcast.wanted);
                self.entries.extend(broadcast.entries);
            }
            Err(reason) => {
                tracing::warn!(queue = %self.queue, %reason, "a message is no write of this cluster; it goes to the dead letters");
                self.letters
                    .push(letter(&self.queue, delivery.message, &reason));
            }
        }
        self.receipts.push(delivery.receipt);
    }
}

fn read(delivery: &Delivery, cluster: &str) -> Result<Broadcast, String> {
    if let Some(flaw) = &delivery.flaw {
        return Err(flaw.to_string());
    }
    let broadcast =
        Broadcast::from_message(&delivery.message).map_err(|error| error.to_string())?;
    if &*broadcast.cluster != cluster {
        return Err(Malformed::foreign(&broadcast.cluster, cluster).to_string());
    }
    Ok(broadcast)
}

/// The message as it came, with the reason.
fn letter(queue: &str, mut message: Message, reason: &str) -> Publication {
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    let header = Header::Text(reason);
    message.headers.insert(REASON_HEADER.to_owned(), header);
    Publication {
        copied: true,
        ..Publication::to_queue(dead_letter_queue_name(queue), message)
    }
}
