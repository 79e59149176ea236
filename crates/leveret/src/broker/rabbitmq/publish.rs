//! Publishing with confirms.
//!
//! What callers publish gathers into groups. A group goes through a *lane*, which has a channel in confirm mode, all its messages at once, and
//! its callers are answered when all are confirmed. Meanwhile the next group forms and may go through another lane, as the
//! [batcher](crate::batcher) says. So the confirms of several groups overlap, and a caller alone waits for nobody. A group with more messages
//! than its lane's part of `publish_window` goes in pieces, one after the other: never more than the window are unconfirmed.
//!
//! A lane waits for its whole group before the next one for the sake of returned messages. AMQP returns an unroutable message
//! before its ack, but does not say which one it was, and lapin attaches it to *some* confirm of the same channel. Once the
//! group is confirmed, all its returns are here, and none of another group: what came back is [matched](returns) by content.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use lapin::{
    Channel, Confirmation, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    link::{Keeper, Link, lost_error},
    returns,
    wire::{self, short},
};
use crate::{
    batcher::Batcher,
    broker::{BrokerError, Publication},
};

/// Lanes of one connection.
const LANES: usize = 8;

pub(super) type Outcome = Result<(), BrokerError>;

/// What the publisher may and when it gives up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) window: usize,
    pub(super) message_bytes_max: usize,
    pub(super) outage_wait: Duration,
    pub(super) confirm_timeout: Duration,
}

struct Request {
    batch: Vec<Publication>,
    since: Instant,
}

/// The way into the lanes. Clones share them; they end when the last clone is gone and all is confirmed or given up.
#[derive(Clone)]
pub(super) struct Publisher {
    requests: Batcher<Request, Vec<Outcome>>,
}

impl Publisher {
    /// A publisher that holds `alive` as long as there is something to publish.
    pub(super) fn new(keeper: &Arc<Keeper>, limits: Limits, alive: &mpsc::Sender<()>) -> Publisher {
        let group_max = (limits.window / LANES).max(1);
        let lanes = Arc::new(Lanes {
            keeper: keeper.clone(),
            limits,
            group_max,
            idle: Mutex::default(),
            _alive: alive.clone(),
        });
        let requests = Batcher::new(group_max, LANES, move |group| {
            let lanes = lanes.clone();
            async move { lanes.publish(group).await }
        });
        Publisher { requests }
    }

    pub(super) async fn publish(&self, batch: Vec<Publication>) -> Vec<Outcome> {
        let count = batch.len();
        if count == 0 {
            return Vec::new();
        }
        let since = Instant::now();
        let answer = self.requests.submit(Request { batch, since }).await;
        answer.unwrap_or_else(|_| vec![Err(lost_error()); count])
    }
}

/// Whether a message can be sent at all.
fn check(publication: &Publication, bytes_max: usize) -> Outcome {
    let size_bytes = publication.message.body.len();
    if size_bytes > bytes_max && !publication.copied {
        return Err(BrokerError::TooLarge {
            size_bytes,
            max_bytes: bytes_max,
        });
    }
    Ok(())
}

struct Lanes {
    keeper: Arc<Keeper>,
    limits: Limits,
    group_max: usize,
    idle: Mutex<Vec<Lane>>,
    _alive: mpsc::Sender<()>,
}

impl Lanes {
    /// Publishes a group through a lane that is idle, or a new one.
    async fn publish(&self, group: Vec<Request>) -> Vec<Vec<Outcome>> {
        let mut lane = self.lock().pop().unwrap_or_else(|| Lane {
            keeper: self.keeper.clone(),
            limits: self.limits,
            channel: None,
        });
        let since = group.iter().map(|request| request.since).min();
        let deadline = since.unwrap_or_else(Instant::now) + self.limits.outage_wait;
        let publications = group.iter().flat_map(|request| &request.batch);
        let publications: Vec<&Publication> = publications.collect();
        let mut outcomes = Vec::with_capacity(publications.len());
        for chunk in publications.chunks(self.group_max) {
            outcomes.extend(lane.publish(chunk, deadline).await);
        }
        self.lock().push(lane);
        let mut outcomes = outcomes.into_iter();
        let own = |request: &Request| outcomes.by_ref().take(request.batch.len()).collect();
        group.iter().map(own).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Lane>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lane {
    keeper: Arc<Keeper>,
    limits: Limits,
    channel: Option<(Arc<Link>, Channel)>,
}

impl Lane {
    async fn publish(&mut self, chunk: &[&Publication], deadline: Instant) -> Vec<Outcome> {
        let (link, channel) = match self.ready(deadline).await {
            Ok(ready) => ready,
            Err(error) => return vec![Err(error); chunk.len()],
        };
        let limit = Instant::now() + self.limits.confirm_timeout;
        let outcomes = send(&link, &channel, chunk, self.limits.message_bytes_max, limit).await;
        let unfinished =
            |outcome: &Outcome| matches!(outcome, Err(BrokerError::Unavailable { .. }));
        if channel.status().connected() && !outcomes.iter().any(unfinished) {
            self.channel = Some((link, channel));
        }
        outcomes
    }

    /// A channel in confirm mode on a link that takes messages.
    async fn ready(&mut self, deadline: Instant) -> Result<(Arc<Link>, Channel), BrokerError> {
        let (link, channel) = match self.channel.take() {
            Some((link, channel)) if link.is_up() && channel.status().connected() => {
                (link, channel)
            }
            _ => {
                let link = self.keeper.link_by(deadline).await?;
                let channel = link.channel().await?;
                let select = channel.confirm_select(ConfirmSelectOptions::default());
                link.request("channel", select).await?;
                (link, channel)
            }
        };
        let mut blocked = link.blocked();
        if blocked.borrow().is_some() {
            let free = blocked.wait_for(Option::is_none);
            let waited = tokio::select! {
                waited = timeout_at(deadline, free) => waited.is_ok(),
                () = link.lost() => return Err(lost_error()),
            };
            if !waited {
                let reason = blocked.borrow().clone().unwrap_or_default();
                self.channel = Some((link.clone(), channel));
                return Err(BrokerError::NotAccepted {
                    detail: format!("the broker blocks publishers: {reason}"),
                });
            }
        }
        Ok((link, channel))
    }
}

/// Sends all, then waits for all confirms.
async fn send(
    link: &Link,
    channel: &Channel,
    chunk: &[&Publication],
    bytes_max: usize,
    limit: Instant,
) -> Vec<Outcome> {
    let mut sent = Vec::with_capacity(chunk.len());
    for publication in chunk {
        sent.push(check(publication, bytes_max).and_then(|()| start(channel, publication)));
    }
    let (mut outcomes, mut returned, mut refused) =
        (Vec::with_capacity(chunk.len()), Vec::new(), None);
    for sending in sent {
        outcomes.push(match sending {
            Err(error) => Err(error),
            Ok(sending) => match confirmation(link, sending, limit).await {
                Ok(Confirmation::Ack(message)) => {
                    returned.extend(message);
                    Ok(())
                }
                Ok(Confirmation::Nack(message)) => {
                    returned.extend(message);
                    Err(BrokerError::NotAccepted {
                        detail: "the broker answered with nack".to_owned(),
                    })
                }
                Ok(Confirmation::NotRequested) | Err(None) => Err(lost_error()),
                Err(Some(error)) => {
                    refused = refused.or(error.is_amqp_error().then_some(error));
                    Err(lost_error())
                }
            },
        });
    }
    returns::attribute(&returned, chunk, &mut outcomes);
    if let Some(error) = refused {
        blame(&error, chunk, &mut outcomes);
    }
    outcomes
}

type Sending<'a> =
    std::pin::Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send + 'a>>;

/// Hands one message to the connection. The first poll does that, and later ones only wait for the socket, so that the messages
/// of a group leave in order and together.
fn start<'a>(
    channel: &'a Channel,
    publication: &'a Publication,
) -> Result<Result<PublisherConfirm, Sending<'a>>, BrokerError> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let mut sending: Sending<'a> = Box::pin(channel.basic_publish(
        short(&publication.exchange)?,
        short(&publication.routing_key)?,
        options,
        &publication.message.body,
        wire::properties(&publication.message)?,
    ));
    match (&mut sending).now_or_never() {
        None => Ok(Err(sending)),
        Some(Ok(confirm)) => Ok(Ok(confirm)),
        Some(Err(error)) => Ok(Err(Box::pin(std::future::ready(Err(error))))),
    }
}

/// Waits for the broker's answer; `Err(None)` when the link was lost or the time is over.
async fn confirmation(
    link: &Link,
    sending: Result<PublisherConfirm, Sending<'_>>,
    limit: Instant,
) -> Result<Confirmation, Option<lapin::Error>> {
    let answer = async {
        match sending {
            Ok(confirm) => confirm.await,
            Err(sending) => sending.await?.await,
        }
    };
    tokio::select! {
        biased;
        answer = answer => answer.map_err(Some),
        () = link.lost() => Err(None),
        () = tokio::time::sleep_until(limit) => Err(None),
    }
}

/// The broker closed the channel because of one exchange: those messages fail for that, the others may be tried again.
fn blame(error: &lapin::Error, chunk: &[&Publication], outcomes: &mut [Outcome]) {
    let text = error.to_string();
    for (publication, outcome) in chunk.iter().zip(outcomes) {
        let named = text.contains(&format!("exchange '{}'", publication.exchange));
        if named && matches!(outcome, Err(BrokerError::Unavailable { .. })) {
            let what = format!("exchange '{}'", publication.exchange);
            *outcome = Err(wire::error(error, &what));
        }
    }
}
