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
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use lapin::{
    Channel, Confirmation, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{sync::mpsc, time::Instant};

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
    /// Between groups it keeps no link open that was replaced.
    channel: Option<(Weak<Link>, Arc<Channel>)>,
}

impl Lane {
    /// Publishes a chunk. The broker closes the channel over a message that it refuses, and does not always say which one. Then all that
    /// are not confirmed go [again](Publication::again), each for itself, so that only the one to blame fails.
    async fn publish(&mut self, chunk: &[&Publication], deadline: Instant) -> Vec<Outcome> {
        let (mut outcomes, refused) = self.attempt(chunk, deadline).await;
        let Some(error) = refused else {
            return outcomes;
        };
        if let [publication] = chunk {
            return vec![Err(refusal(&error, publication))];
        }
        if !blame(&error, chunk, &mut outcomes) {
            for (publication, outcome) in chunk.iter().zip(&mut outcomes) {
                if is_unfinished(outcome) {
                    *outcome = self.publish_alone(publication, deadline).await;
                }
            }
        }
        outcomes
    }

    async fn publish_alone(&mut self, publication: &Publication, deadline: Instant) -> Outcome {
        let again = publication.clone().again();
        let (outcomes, refused) = self.attempt(&[&again], deadline).await;
        let outcome = outcomes.into_iter().next();
        refused.map_or_else(
            || outcome.unwrap_or_else(|| Err(lost_error())),
            |error| Err(refusal(&error, publication)),
        )
    }

    /// Sends a chunk once; with the error by which the broker closed the channel for good, if it did.
    async fn attempt(
        &mut self,
        chunk: &[&Publication],
        deadline: Instant,
    ) -> (Vec<Outcome>, Option<lapin::Error>) {
        let (link, channel) = match self.ready(deadline).await {
            Ok(ready) => ready,
            Err(error) => return (vec![Err(error); chunk.len()], None),
        };
        let limit = Instant::now() + self.limits.confirm_timeout;
        let bytes_max = self.limits.message_bytes_max;
        let (outcomes, refused) = send(&link, &channel, chunk, bytes_max, limit).await;
        if channel.status().connected() && !outcomes.iter().any(is_unfinished) {
            self.channel = Some((Arc::downgrade(&link), channel));
        }
        (outcomes, refused)
    }

    /// A channel in confirm mode on a link that takes messages. A broker that blocks the link answers nothing on it, so that a channel is
    /// opened only after that.
    async fn ready(&mut self, deadline: Instant) -> Result<(Arc<Link>, Arc<Channel>), BrokerError> {
        let kept = self.kept();
        if kept.is_none() {
            self.channel = None;
        }
        let link = match kept {
            Some(link) => link,
            None => self.keeper.link_by(deadline).await?,
        };
        link.unblocked_by(deadline).await?;
        if let Some((_, channel)) = self.channel.take() {
            return Ok((link, channel));
        }
        let channel = link.channel().await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        link.request("channel", select).await?;
        Ok((link, Arc::new(channel)))
    }

    /// The link of the channel from before, if that can go on.
    fn kept(&self) -> Option<Arc<Link>> {
        let (link, channel) = self.channel.as_ref()?;
        let link = link.upgrade()?;
        let goes_on = self.keeper.is_current(&link) && link.is_up() && channel.status().connected();
        goes_on.then_some(link)
    }
}

/// Sends all, then waits for all confirms. What could not be sent yet at the limit keeps the channel open until it is.
async fn send(
    link: &Arc<Link>,
    channel: &Arc<Channel>,
    chunk: &[&Publication],
    bytes_max: usize,
    limit: Instant,
) -> (Vec<Outcome>, Option<lapin::Error>) {
    let mut sent = Vec::with_capacity(chunk.len());
    for publication in chunk {
        sent.push(check(publication, bytes_max).and_then(|()| start(channel, publication)));
    }
    let (mut outcomes, mut returned, mut refused) =
        (Vec::with_capacity(chunk.len()), Vec::new(), None);
    let mut unsent = Vec::new();
    for sending in sent {
        outcomes.push(match sending {
            Err(error) => Err(error),
            Ok(mut sending) => match confirmation(link, &mut sending, limit).await {
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
                Ok(Confirmation::NotRequested) => Err(lost_error()),
                Err(None) => {
                    unsent.extend(sending.unsent());
                    Err(lost_error())
                }
                Err(Some(error)) => {
                    refused = refused.or(error.is_amqp_soft_error().then_some(error));
                    Err(lost_error())
                }
            },
        });
    }
    if !unsent.is_empty() {
        tokio::spawn(finish_sending(link.clone(), unsent));
    }
    returns::attribute(&returned, chunk, &mut outcomes);
    (outcomes, refused)
}

/// Waits for the socket. Holds the channel.
type Leaving = Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send>>;

/// A message that was handed to the connection.
enum Sending {
    Leaving(Leaving),
    Sent(PublisherConfirm),
}

impl Sending {
    async fn confirmed(&mut self) -> lapin::Result<Confirmation> {
        loop {
            match self {
                Sending::Leaving(leaving) => *self = Sending::Sent(leaving.await?),
                Sending::Sent(confirm) => return confirm.await,
            }
        }
    }

    fn unsent(self) -> Option<Leaving> {
        match self {
            Sending::Leaving(leaving) => Some(leaving),
            Sending::Sent(_) => None,
        }
    }
}

/// Hands one message to the connection. The first poll does that, and later ones only wait for the socket, so that the messages
/// of a group leave in order and together.
fn start(channel: &Arc<Channel>, publication: &Publication) -> Result<Sending, BrokerError> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let exchange = short(&publication.exchange)?;
    let key = short(&publication.routing_key)?;
    let properties = wire::properties(&publication.message)?;
    let (channel, body) = (channel.clone(), publication.message.body.clone());
    let mut leaving: Leaving = Box::pin(async move {
        let publishing = channel.basic_publish(exchange, key, options, &body, properties);
        publishing.await
    });
    Ok(match (&mut leaving).now_or_never() {
        None => Sending::Leaving(leaving),
        Some(Ok(confirm)) => Sending::Sent(confirm),
        Some(Err(error)) => Sending::Leaving(Box::pin(std::future::ready(Err(error)))),
    })
}

/// Waits until all have left, or are lost. A channel that is dropped before is closed in front of them, and what then comes for it ends the
/// connection.
async fn finish_sending(link: Arc<Link>, unsent: Vec<Leaving>) {
    tokio::select! {
        _ = join_all(unsent) => {}
        () = link.lost() => {}
    }
}

/// Waits for the broker's answer; `Err(None)` when the link was lost or the time is over.
async fn confirmation(
    link: &Link,
    sending: &mut Sending,
    limit: Instant,
) -> Result<Confirmation, Option<lapin::Error>> {
    tokio::select! {
        biased;
        answer = sending.confirmed() => answer.map_err(Some),
        () = link.lost() => Err(None),
        () = tokio::time::sleep_until(limit) => Err(None),
    }
}

fn is_unfinished(outcome: &Outcome) -> bool {
    matches!(outcome, Err(BrokerError::Unavailable { .. }))
}

/// The broker closed the channel because of one exchange: those messages fail for that, the others may be tried again. False if it named none
/// of theirs. A right to write that depends on the key is no matter of the exchange.
fn blame(error: &lapin::Error, chunk: &[&Publication], outcomes: &mut [Outcome]) -> bool {
    let text = error.to_string();
    let mut found = false;
    for (publication, outcome) in chunk.iter().zip(outcomes) {
        let name = exchange_name(publication);
        let named = ["no", "access to"].map(|what| text.contains(&format!("{what} {name} ")));
        if named.contains(&true) && is_unfinished(outcome) {
            *outcome = Err(refusal(error, publication));
            found = true;
        }
    }
    found
}

/// What the broker has against this message. A precondition that fails when one publishes is the message's own: its size, or a header.
fn refusal(error: &lapin::Error, publication: &Publication) -> BrokerError {
    match wire::error(error, &exchange_name(publication)) {
        BrokerError::Mismatch { detail, .. } => BrokerError::Invalid { detail },
        other => other,
    }
}

/// As the broker calls it.
fn exchange_name(publication: &Publication) -> String {
    match &*publication.exchange {
        "" => "exchange 'amq.default'".to_owned(),
        name => format!("exchange '{name}'"),
    }
}

#[cfg(test)]
mod tests {
    use lapin::{ErrorKind, protocol::AMQPError};

    use super::*;
    use crate::broker::Message;

    /// What becomes of a message to the default exchange and one to exchange `x` when the broker closes their channel with this text:
    /// `?` may be tried again, `!` fails.
    fn check(code: u16, text: &str, expect: &str) {
        let error = AMQPError::from_id(code, text.into()).unwrap();
        let error = lapin::Error::from(ErrorKind::ProtocolError(error));
        let direct = Publication::to_queue("q", Message::json("1"));
        let bound = Publication {
            exchange: "x".into(),
            ..direct.clone()
        };
        let mut outcomes = vec![Err(lost_error()), Err(lost_error())];
        let found = blame(&error, &[&direct, &bound], &mut outcomes);
        let letter = |outcome: &Outcome| if is_unfinished(outcome) { '?' } else { '!' };
        assert_eq!(outcomes.iter().map(letter).collect::<String>(), expect);
        assert_eq!(found, expect.contains('!'));
    }

    #[test]
    fn the_exchange_that_the_broker_names_is_to_blame() {
        check(
            403,
            "access to exchange 'amq.default' in vhost '/' refused for user 'u'",
            "!?",
        );
        check(
            403,
            "write access to exchange 'x' in vhost '/' refused for user 'u'",
            "?!",
        );
        check(
            403,
            "access to topic 'k' in exchange 'x' in vhost '/' refused for user 'u'",
            "??",
        );
        check(404, "no exchange 'x' in vhost '/'", "?!");
        check(
            406,
            "message size 30 is larger than configured max size 20",
            "??",
        );
    }
}
