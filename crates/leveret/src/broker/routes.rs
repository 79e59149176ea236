//! Exchanges, queues and bindings, and where a message goes. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{Binding, BrokerError, DEFAULT_EXCHANGE, Exchange, ExchangeKind, Queue, Topology};

/// A queue's number, never used again for another queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct QueueId(pub(super) u32);

#[derive(Debug, Default)]
pub(super) struct Routes {
    exchanges: HashMap<Arc<str>, Bound>,
    queues: HashMap<Arc<str>, (QueueId, Queue)>,
}

#[derive(Debug)]
struct Bound {
    kind: ExchangeKind,
    bindings: BTreeSet<(Arc<str>, QueueId)>,
}

impl Routes {
    pub(super) fn queue(&self, name: &str) -> Option<QueueId> {
        self.queues.get(name).map(|(id, _)| *id)
    }

    pub(super) fn queue_names(&self) -> Vec<Arc<str>> {
        self.queues.keys().cloned().collect()
    }

    /// The name of a queue.
    pub(super) fn name(&self, queue: QueueId) -> Option<Arc<str>> {
        let mut queues = self.queues.iter();
        let named = queues.find(|(_, (id, _))| *id == queue);
        named.map(|(name, _)| name.clone())
    }

    /// The queue, or an error that names it.
    pub(super) fn existing(&self, name: &str) -> Result<QueueId, BrokerError> {
        self.queue(name).ok_or_else(|| not_found("queue", name))
    }

    /// What of a topology is missing, so that it has to be made.
    pub(super) fn missing(&self, wanted: &Topology) -> Result<Topology, BrokerError> {
        wanted.check(self.queues.values().map(|(_, queue)| queue))?;
        let mut missing = Topology::default();
        for exchange in &wanted.exchanges {
            let kind = self.exchanges.get(&exchange.name).map(|bound| bound.kind);
            if is_new(exchange, kind, &missing.exchanges)? {
                missing.exchanges.push(exchange.clone());
            }
        }
        for queue in &wanted.queues {
            let known = self.queues.get(&queue.name).map(|(_, queue)| queue);
            let new = missing.queues.iter().find(|new| new.name == queue.name);
            match known.or(new) {
                None => missing.queues.push(queue.clone()),
                Some(known) if known == queue => {}
                Some(known) => return Err(mismatch(known, queue)),
            }
        }
        for binding in &wanted.bindings {
            if self.is_unbound(binding, &missing)? && !missing.bindings.contains(binding) {
                missing.bindings.push(binding.clone());
            }
        }
        Ok(missing)
    }

    fn is_unbound(&self, binding: &Binding, new: &Topology) -> Result<bool, BrokerError> {
        let bound = self.exchanges.get(&binding.exchange);
        if bound.is_none() && !new.exchanges.iter().any(|new| new.name == binding.exchange) {
            return Err(not_found("exchange", &binding.exchange));
        }
        let queue = self.queue(&binding.queue);
        if queue.is_none() && !new.queues.iter().any(|new| new.name == binding.queue) {
            return Err(not_found("queue", &binding.queue));
        }
        Ok(match (bound, queue) {
            (Some(bound), Some(queue)) => !bound
                .bindings
                .contains(&(binding.routing_key.clone(), queue)),
            _ => true,
        })
    }

    pub(super) fn add_exchange(&mut self, exchange: &Exchange) {
        self.exchanges
            .entry(exchange.name.clone())
            .or_insert_with(|| Bound {
                kind: exchange.kind,
                bindings: BTreeSet::new(),
            });
    }

    pub(super) fn add_queue(&mut self, queue: &Queue, id: QueueId) {
        self.queues.insert(queue.name.clone(), (id, queue.clone()));
    }

    /// Adds a binding between things that exist.
    pub(super) fn add_binding(&mut self, binding: &Binding) {
        let queue = self.queue(&binding.queue);
        if let (Some(bound), Some(queue)) = (self.exchanges.get_mut(&binding.exchange), queue) {
            bound.bindings.insert((binding.routing_key.clone(), queue));
        }
    }

    pub(super) fn remove_binding(&mut self, binding: &Binding) {
        let queue = self.queue(&binding.queue);
        if let (Some(bound), Some(queue)) = (self.exchanges.get_mut(&binding.exchange), queue) {
            bound.bindings.remove(&(binding.routing_key.clone(), queue));
        }
    }

    pub(super) fn remove_queue(&mut self, name: &str) -> Option<QueueId> {
        let (id, _) = self.queues.remove(name)?;
        for bound in self.exchanges.values_mut() {
            bound.bindings.retain(|(_, queue)| *queue != id);
        }
        Some(id)
    }

    pub(super) fn remove_exchange(&mut self, name: &str) {
        self.exchanges.remove(name);
    }

    /// The queues that take a message, each once; at least one.
    pub(super) fn route(
        &self,
        exchange: &Arc<str>,
        routing_key: &Arc<str>,
    ) -> Result<Vec<QueueId>, BrokerError> {
        let mut queues = if &**exchange == DEFAULT_EXCHANGE {
            self.queue(routing_key).into_iter().collect()
        } else {
            let bound = self.exchanges.get(exchange);
            bound
                .ok_or_else(|| not_found("exchange", exchange))?
                .route(routing_key)
        };
        if queues.is_empty() {
            return Err(BrokerError::Unroutable {
                exchange: exchange.clone(),
                routing_key: routing_key.clone(),
            });
        }
        queues.sort_unstable();
        queues.dedup();
        Ok(queues)
    }
}

impl Bound {
    fn route(&self, routing_key: &str) -> Vec<QueueId> {
        let takes = |pattern: &str| match self.kind {
            ExchangeKind::Fanout => true,
            ExchangeKind::Direct => pattern == routing_key,
            ExchangeKind::Topic => topic_matches(pattern, routing_key),
        };
        let bindings = self.bindings.iter();
        bindings
            .filter(|(pattern, _)| takes(pattern))
            .map(|(_, queue)| *queue)
            .collect()
    }
}

/// Whether an exchange has to be made.
fn is_new(
    exchange: &Exchange,
    known: Option<ExchangeKind>,
    new: &[Exchange],
) -> Result<bool, BrokerError> {
    let what = || format!("exchange '{}'", exchange.name);
    if &*exchange.name == DEFAULT_EXCHANGE {
        return Err(BrokerError::Mismatch {
            what: "the default exchange".to_owned(),
            detail: "it cannot be declared".to_owned(),
        });
    }
    let new = new.iter().find(|new| new.name == exchange.name);
    match known.or(new.map(|new| new.kind)) {
        None => Ok(true),
        Some(kind) if kind == exchange.kind => Ok(false),
        Some(kind) => Err(BrokerError::Mismatch {
            what: what(),
            detail: format!("it is {kind:?}, wanted {:?}", exchange.kind),
        }),
    }
}

fn mismatch(known: &Queue, wanted: &Queue) -> BrokerError {
    let shown = |queue: &Queue| {
        let Queue {
            name: _,
            delay,
            single_active,
            expires_after,
            length_max,
        } = queue;
        format!(
            "delay {delay:?}, single active consumer {single_active}, expiry {expires_after:?}, length {length_max:?}"
        )
    };
    BrokerError::Mismatch {
        what: format!("queue '{}'", wanted.name),
        detail: format!("it has {}; wanted {}", shown(known), shown(wanted)),
    }
}

fn not_found(kind: &str, name: &str) -> BrokerError {
    BrokerError::NotFound {
        what: format!("{kind} '{name}'"),
    }
}

/// Whether a dotted key matches a pattern: `*` is one word, `#` any number of words. An empty text has no words.
pub(super) fn topic_matches(pattern: &str, key: &str) -> bool {
    let pattern: Vec<&str> = words(pattern).collect();
    let key: Vec<&str> = words(key).collect();
    // Positions in the pattern and the key to come back to, when a `#` has to take one word more.
    let (mut p, mut k, mut retry) = (0, 0, None);
    while k < key.len() {
        match pattern.get(p) {
            Some(&"#") => {
                retry = Some((p + 1, k));
                p += 1;
            }
            Some(&word) if word == "*" || word == key[k] => (p, k) = (p + 1, k + 1),
            _ => match retry {
                Some((after, from)) => {
                    (p, k) = (after, from + 1);
                    retry = Some((after, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&word| word == "#")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split('.').filter(move |_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_patterns() {
        let check = |pattern, key, expect| {
            assert_eq!(topic_matches(pattern, key), expect, "{pattern} on {key}");
        };
        check("a.b", "a.b", true);
        check("a.b", "a.b.c", false);
        check("*", "", false);
        check("#", "", true);
        check("#", "a.b", true);
        check("#.#", "a", true);
        check("a.#.b", "a.b", true);
        check("a.#.b", "a.x.b.y.b", true);
        check("a.#.b", "a.x.b.y", false);
        check("*.#.x", "x", false);
        check("#.x.*", "x.x.x", true);
        check("#.b.#.d", "a.b.c.b.d", true);
        check("", "", true);
        check("", "a", false);
        check("a.*", "a.", true);
    }

    /// Within one topology, too, an object is declared once and in one way.
    #[test]
    fn missing_is_what_is_new() {
        let queue = Queue::plain("q");
        let mut routes = Routes::default();
        let twice = Topology {
            queues: vec![queue.clone(), queue.clone()],
            ..Topology::default()
        };
        assert_eq!(routes.missing(&twice).unwrap().queues.len(), 1);
        routes.add_queue(&queue, QueueId(1));
        assert_eq!(routes.missing(&twice).unwrap(), Topology::default());
        let exchange = |kind| Exchange {
            name: "x".into(),
            kind,
        };
        let torn = Topology {
            exchanges: vec![
                exchange(ExchangeKind::Topic),
                exchange(ExchangeKind::Direct),
            ],
            ..Topology::default()
        };
        assert!(matches!(
            routes.missing(&torn),
            Err(BrokerError::Mismatch { .. })
        ));
    }
}
