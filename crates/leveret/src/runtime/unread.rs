//! Queues that nobody reads: status and completion messages are for others, and where nobody consumes them, their queues grow for ever.
//! The broker is asked from time to time; what is found is logged once, and told by [`Engine::warnings`](super::Engine::warnings) and metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::Inner;
use crate::broker::QueueStats;

/// How often the broker is asked.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Fewer messages are no matter.
const MESSAGES_MIN: u64 = 1000;
/// A queue that did not grow at so many looks is bounded, or nothing happens.
const STILL_MAX: u32 = 4;

/// What is known of the queues that are for others.
#[derive(Debug, Default)]
pub(crate) struct Unread(Mutex<BTreeMap<Arc<str>, Watched>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Watched {
    /// At the last look.
    messages: Option<u64>,
    /// How many looks it is since it grew.
    still: u32,
    is_unread: bool,
}

impl Watched {
    /// A queue that grows, has no consumer and holds many messages is unread, until one of these ends.
    fn look(self, stats: QueueStats) -> Watched {
        let QueueStats { ready, consumers } = stats;
        let messages = Some(ready);
        if consumers > 0 || ready < MESSAGES_MIN {
            return Watched {
                messages,
                ..Watched::default()
            };
        }
        if self.messages.is_some_and(|before| ready > before) {
            return Watched {
                messages,
                still: 0,
                is_unread: true,
            };
        }
        let still = self.still.saturating_add(1);
        Watched {
            messages,
            still,
            is_unread: self.is_unread && still < STILL_MAX,
        }
    }
}

impl Unread {
    /// The queues that nobody reads, with how many messages they hold.
    pub(crate) fn queues(&self) -> Vec<(Arc<str>, u64)> {
        let watched = self.lock();
        let unread = watched.iter().filter(|(_, watched)| watched.is_unread);
        unread
            .map(|(queue, watched)| (queue.clone(), watched.messages.unwrap_or_default()))
            .collect()
    }

    /// What the broker says of a queue. True if it is unread from now on.
    fn look(&self, queue: &Arc<str>, stats: QueueStats) -> bool {
        let mut all = self.lock();
        let watched = all.entry(queue.clone()).or_default();
        let before = std::mem::replace(watched, watched.look(stats));
        watched.is_unread && !before.is_unread
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to do about a queue that nobody reads.
pub(crate) fn advice(inner: &Inner, queue: &str, messages: u64) -> String {
    let (kind, setting) = if *queue == *inner.names.status {
        ("status messages", "--status off")
    } else {
        ("completion messages", "--completion false")
    };
    let policy = if inner.broker.capabilities().shared {
        let pattern = queue.replace('.', "\\.");
        format!(
            ", or bound the queue: rabbitmqctl set_policy unread '^{pattern}$' '{{\"max-length\": 100000}}' --apply-to queues"
        )
    } else {
        String::new()
    };
    format!(
        "queue '{queue}' holds {messages} messages and grows, as nobody consumes it: consume it, publish no {kind} ({setting}){policy}"
    )
}

/// Looks at the queues until `shutdown` turns true.
pub(crate) async fn run(inner: Arc<Inner>, mut shutdown: watch::Receiver<bool>) {
    let queues = inner.names.for_others(inner.publish);
    loop {
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        for queue in &queues {
            // What does not answer now is asked again.
            let Ok(stats) = inner.broker.queue_stats(queue).await else {
                continue;
            };
            if inner.unread.look(queue, stats) {
                tracing::warn!("{}", advice(&inner, queue, stats.ready));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks, each the messages of a queue and, after a colon, its consumers; with whether it is unread after each.
    fn check(looks: &str, expect: &str) {
        let mut watched = Watched::default();
        let letter = |look: &str| {
            let (ready, consumers) = look.split_once(':').unwrap_or((look, "0"));
            watched = watched.look(QueueStats {
                ready: ready.parse().unwrap(),
                consumers: consumers.parse().unwrap(),
            });
            if watched.is_unread { '!' } else { '.' }
        };
        assert_eq!(looks.split(' ').map(letter).collect::<String>(), expect);
    }

    #[test]
    fn a_queue_is_unread_while_it_grows_without_a_consumer() {
        check("2000 2000 2000", "...");
        check("0 2000 3000", ".!!");
        check("10 20 999 1000", "...!");
        check("2000 3000:1 4000", "..!");
        check("2000 3000 3000:1 3000", ".!..");
        check("2000 3000 10", ".!.");
        check("2000 3000 3000 3000 3000 3000 3001", ".!!!!.!");
    }
}
