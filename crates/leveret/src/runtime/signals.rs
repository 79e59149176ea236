//! Signals: recorded, then the steps that they wake are published. By call, or from the queue `workflow.signal`.
//!
//! A signal is durable, with the end of the wait that it ends, before anybody is told that it was taken. The timers of the steps that it wakes come claimed
//! with it: their jobs are published from here, and if that fails, or this process dies, the timers are due when the claim is over.

use std::sync::Arc;

use async_trait::async_trait;
use leveret_core::{
    ids::{EventName, RunId, SignalId, SignalKey},
    json::{Json, begins_object},
};
use serde::Deserialize;
use tokio::sync::watch;

use super::{Engine, Inner, WorkerOptions, timers};
use crate::{
    batcher::Batcher,
    broker::{
        BrokerError, Delivery,
        work::{self, Handler, Verdict, WorkOptions},
    },
    store::{Addressee, NewSignal, Signalled, Store, StoreError, signal_each},
};

/// The most signals in one call of the store, and the most of these calls at the same time.
const CALL_MAX: usize = 128;
const CALLS_MAX: usize = 2;

/// Why a signal was not taken.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// The store. If it is away, the signal may have been recorded: with the same id it can be sent again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It brings more than a step's output may have.
    #[error("the data has {bytes} bytes, more than the {bytes_max} allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
}

impl SignalError {
    /// Whether the same call may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        match self {
            SignalError::Store(error) => error.is_retryable(),
            SignalError::TooLarge { .. } => false,
        }
    }
}

pub(crate) type Signals = Batcher<NewSignal, Result<Signalled, StoreError>>;

/// Records signals that come at once together.
pub(super) fn batcher(store: &Arc<dyn Store>, clock: &Arc<dyn super::Clock>) -> Signals {
    let (store, clock) = (store.clone(), clock.clone());
    Batcher::new(CALL_MAX, CALLS_MAX, move |batch: Vec<NewSignal>| {
        let (store, clock) = (store.clone(), clock.clone());
        async move { signal_each(&*store, &batch, clock.now(), timers::CLAIM).await }
    })
}

impl Engine {
    /// Sends a signal: what became of it.
    ///
    /// When it returns [`Signalled::Recorded`], the signal is durable, and so is the end of the wait that it ended: its step goes on, whatever this process and
    /// the broker do. A crash before that leaves the signal recorded or not; with the same id it can be sent again, and counts once.
    pub async fn signal(&self, signal: NewSignal) -> Result<Signalled, SignalError> {
        let inner = &self.inner;
        let (bytes, bytes_max) = (signal.data.text().len(), inner.options.output_bytes_max);
        if bytes > bytes_max {
            return Err(SignalError::TooLarge { bytes, bytes_max });
        }
        let mut signalled = inner
            .signals
            .submit(signal)
            .await
            .map_err(StoreError::from)??;
        if let Signalled::Recorded { woken, timers } = &mut signalled {
            inner.metrics.signals.inc();
            if *woken > 0 {
                wake(inner, std::mem::take(timers));
            }
        }
        Ok(signalled)
    }
}

impl Engine {
    /// Publishes an event for all who listen to [`Names::events`](super::Names::events), where the broker is shared with others. Once, if the broker takes
    /// it: the signal that it tells of is recorded already.
    pub(crate) async fn tell_event(&self, event: &EventName, payload: &Json) {
        let inner = &self.inner;
        if !inner.broker.capabilities().shared {
            return;
        }
        let told = vec![inner.names.event(event, payload)];
        for result in inner.broker.publish(told).await {
            match result {
                Ok(()) => inner.metrics.published.inc(),
                // Nobody listens.
                Err(BrokerError::Unroutable { .. }) => {}
                Err(error) => tracing::warn!(%error, "event '{event}' is not published"),
            }
        }
    }
}

/// Publishes the jobs of steps that were woken, behind the answer. What cannot be published is due when the claim of its timer ends.
fn wake(inner: &Arc<Inner>, woken: Vec<crate::store::Timer>) {
    if woken.is_empty() {
        // They are many, and due.
        inner.timers.hint(inner.clock.now());
        return;
    }
    if !inner.broker.is_connected() {
        return;
    }
    let inner = inner.clone();
    tokio::spawn(async move {
        if let Err(error) = timers::fire(&inner, woken, &mut Vec::new()).await {
            tracing::debug!(%error, "steps that signals woke go on when their timers are due");
        }
    });
}

/// A signal as it comes in a message.
#[derive(Debug, Deserialize)]
struct SignalMessage {
    execution_id: Option<RunId>,
    key: Option<SignalKey>,
    event: EventName,
    #[serde(default)]
    data: Json,
    id: Option<SignalId>,
}

/// Decodes strictly, as a job; without an `id`, the message's own is taken.
fn decode(delivery: &Delivery) -> Result<NewSignal, String> {
    let body = &delivery.message.body;
    if !begins_object(body) {
        return Err("not a signal: it is no JSON object".to_owned());
    }
    let message: SignalMessage =
        serde_json::from_slice(body).map_err(|error| format!("not a signal: {error}"))?;
    let to = match (message.execution_id, message.key) {
        (Some(run_id), None) => Addressee::Run(run_id),
        (None, Some(key)) => Addressee::Key(key),
        _ => return Err("not a signal: it names a run (`execution_id`) or a `key`".to_owned()),
    };
    let data = message.data;
    data.readable()
        .map_err(|error| format!("not a signal: its data cannot be taken in: {error}"))?;
    let own = delivery.message.message_id.as_deref();
    let own = own.and_then(|id| SignalId::new(id).ok());
    Ok(NewSignal {
        to,
        event: message.event,
        id: message.id.or(own),
        data,
    })
}

struct Receiver(Engine);

#[async_trait]
impl Handler for Receiver {
    async fn handle(&self, delivery: &Delivery, _attempt: u32) -> Verdict {
        let signal = match decode(delivery) {
            Ok(signal) => signal,
            Err(reason) => return Verdict::DeadLetter { reason },
        };
        let to = signal.to.clone();
        let run_id = to.run_id().map_or("", RunId::as_str);
        match self.0.signal(signal).await {
            Ok(Signalled::Recorded { .. }) => Verdict::done(),
            Ok(Signalled::Repeated) => Verdict::Repeated {
                publish: Vec::new(),
            },
            // Its first message may still be on its way.
            Ok(Signalled::NoRun) => Verdict::Retry {
                reason: format!("there is no run '{run_id}'"),
            },
            Ok(Signalled::Ended(status)) => Verdict::DeadLetter {
                reason: format!("run '{run_id}' ended before as {status}"),
            },
            Ok(Signalled::NotWaiting | Signalled::Over) => Verdict::DeadLetter {
                reason: format!("a node of run '{run_id}' does not wait"),
            },
            Err(SignalError::Store(StoreError::Closed)) => Verdict::Requeue,
            Err(error) if error.is_retryable() => Verdict::Requeue,
            Err(error) => Verdict::DeadLetter {
                reason: error.to_string(),
            },
        }
    }
}

/// Takes signals from their queue, one after the other, until `shutdown` turns true.
pub(super) async fn consume(
    engine: Engine,
    options: WorkerOptions,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), BrokerError> {
    let inner = &engine.inner;
    let mut work = WorkOptions::queue(inner.names.signal.clone());
    work.message_bytes_max = inner.options.message_bytes_max;
    work.drain_timeout = options.drain_timeout;
    work.publishes_to = inner.topology.clone();
    let broker = inner.broker.clone();
    let stopped = async move {
        drop(shutdown.wait_for(|stop| *stop).await);
    };
    work::serve(broker, work, Receiver(engine), stopped).await
}
