//! What goes between heart and nodes: queues, messages, and HTTP.
//!
//! ```text
//! heart --Broadcast--> exchange (fanout) --> {queue_name}_node_{node_id} --> node
//! heart <--Report----- {queue_name}_heart <---------------------------------'
//! heart <--HTTP: register, fetch, snapshot------ node
//! heart ---HTTP: query, contents, snapshot, …--> node
//! ```
//!
//! Both sides of each path stand here: [`HttpHeart`] and [`HttpNode`] ask, `serve` answers over any link.

mod client;
mod file;
mod message;
mod read;
#[cfg(feature = "http")]
pub mod serve;

use std::sync::Arc;

pub use self::{
    client::{HttpHeart, HttpNode},
    message::{
        Broadcast, KIND_REPORT, KIND_WRITES, MARK_EVERY, MESSAGE_BYTES_MAX, MESSAGE_WRITES_MAX,
        Malformed, Mark, REASON_HEADER, Report,
    },
};
use crate::broker::{Binding, Exchange, ExchangeKind, Queue, Topology, dead_letter_queue_name};

/// The exchange when nothing else is said.
pub const EXCHANGE_DEFAULT: &str = "write_requests_fanout";

/// What the names of queues begin with when nothing else is said.
pub const QUEUE_NAME_DEFAULT: &str = "write_requests";

/// The longest name of a node: it is a part of a queue's name, which AMQP keeps in 255 bytes.
pub const NODE_ID_BYTES_MAX: usize = 100;

/// The names at the broker. All is durable, queues have no arguments, the routing key is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The fanout exchange.
    pub exchange: Arc<str>,
    /// What queues' names begin with.
    pub queue_name: Arc<str>,
}

impl Default for Names {
    fn default() -> Names {
        Names {
            exchange: EXCHANGE_DEFAULT.into(),
            queue_name: QUEUE_NAME_DEFAULT.into(),
        }
    }
}

impl Names {
    /// A node's queue.
    pub fn node_queue(&self, node_id: &str) -> Arc<str> {
        format!("{}_node_{node_id}", self.queue_name).into()
    }

    /// The queue of nodes' reports.
    pub fn heart_queue(&self) -> Arc<str> {
        format!("{}_heart", self.queue_name).into()
    }

    /// What the heart declares.
    pub fn heart_topology(&self) -> Topology {
        Topology {
            exchanges: vec![self.fanout()],
            queues: vec![Queue::plain(self.heart_queue())],
            bindings: Vec::new(),
        }
    }

    /// What a node declares: its queue, the dead letters beside it, and the heart's queue, so that its reports have a place whoever starts
    /// first.
    pub fn node_topology(&self, node_id: &str) -> Topology {
        let queue = self.node_queue(node_id);
        Topology {
            exchanges: vec![self.fanout()],
            queues: vec![
                Queue::plain(queue.clone()),
                Queue::plain(dead_letter_queue_name(&queue)),
                Queue::plain(self.heart_queue()),
            ],
            bindings: vec![Binding {
                queue,
                exchange: self.exchange.clone(),
                routing_key: "".into(),
            }],
        }
    }

    fn fanout(&self) -> Exchange {
        Exchange {
            name: self.exchange.clone(),
            kind: ExchangeKind::Fanout,
        }
    }
}

/// Whether a text can be the name of a node: 1 to [`NODE_ID_BYTES_MAX`] of `A-Z a-z 0-9 . _ -`.
pub fn is_node_id(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !text.is_empty() && text.len() <= NODE_ID_BYTES_MAX && text.chars().all(plain)
}

/// The paths of the heart that nodes call.
pub mod heart_path {
    /// POST a registration.
    pub const NODES: &str = "/nodes";
    /// GET with `after`.
    pub const LOG: &str = "/log";
    /// GET with `node_id`.
    pub const SNAPSHOT: &str = "/snapshot";
}

/// The header with which a node says in each answer whose database gave it: the heart may ask at an address where another node is by now.
pub const DATABASE_HEADER: &str = "x-leveret-database";

/// The paths of a node that the heart calls.
pub mod node_path {
    /// POST a question.
    pub const QUERY: &str = "/query";
    /// GET with `at`.
    pub const CONTENTS: &str = "/contents";
    /// GET with `after`, `limit`.
    pub const OUTCOMES: &str = "/outcomes";
    /// GET.
    pub const SNAPSHOT: &str = "/snapshot";
    /// POST.
    pub const NUDGE: &str = "/nudge";
}

#[cfg(test)]
mod tests;
