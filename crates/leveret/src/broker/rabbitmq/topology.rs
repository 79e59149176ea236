//! Declaring, deleting and counting, each on a channel of its own: a request that the broker refuses closes its channel, and
//! nobody else's.

use std::sync::{Arc, Mutex, PoisonError};

use lapin::{
    Channel,
    options::{
        ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::sync::watch;

use super::{QueueType, link::Link, wire::short};
use crate::broker::{Binding, BrokerError, Exchange, ExchangeKind, Queue, QueueStats, Topology};

/// What was declared, to be declared again on each new connection.
pub(super) struct Remembered {
    topology: Mutex<Topology>,
    form: QueueForm,
    declared: watch::Sender<()>,
}

/// What the arguments of queues depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueForm {
    Classic,
    Quorum,
    /// Without the limit of deliveries that RabbitMQ has from 4.0 on, after which it drops a message.
    UnlimitedQuorum,
}

impl QueueForm {
    /// For a broker of this version; one before 4.0 has no limit, and takes no -1 for one.
    pub(super) fn new(queue_type: QueueType, version: &str) -> QueueForm {
        let major = version.split('.').next().and_then(|n| n.parse().ok());
        match queue_type {
            QueueType::Classic => QueueForm::Classic,
            QueueType::Quorum if major >= Some(4_u32) => QueueForm::UnlimitedQuorum,
            QueueType::Quorum => QueueForm::Quorum,
        }
    }
}

impl Remembered {
    pub(super) fn new(form: QueueForm) -> Remembered {
        Remembered {
            topology: Mutex::default(),
            form,
            declared: watch::Sender::new(()),
        }
    }

    /// Declares, and remembers what was declared.
    pub(super) async fn declare(
        &self,
        link: &Link,
        topology: &Topology,
    ) -> Result<(), BrokerError> {
        topology.check(&self.lock().queues)?;
        let mut channel = link.channel().await?;
        for object in objects(topology) {
            declare(link, &mut channel, &object, self.form).await?;
            self.remember(&object);
        }
        self.declared.send_replace(());
        close(link, &channel).await;
        Ok(())
    }

    /// Removes bindings and forgets them, so that a reconnect does not bring them back.
    pub(super) async fn unbind(
        &self,
        link: &Link,
        bindings: &[Binding],
    ) -> Result<(), BrokerError> {
        self.lock()
            .bindings
            .retain(|binding| !bindings.contains(binding));
        let mut channel = link.channel().await?;
        for binding in bindings {
            ignore_missing(unbind(link, &channel, binding).await)?;
            // One that is missing may have cost the channel.
            if !channel.status().connected() {
                channel = link.channel().await?;
            }
        }
        close(link, &channel).await;
        Ok(())
    }

    /// Changes when something was declared.
    pub(super) fn declared(&self) -> watch::Receiver<()> {
        self.declared.subscribe()
    }

    /// Declares everything remembered. What the broker refuses (it exists otherwise by now) is logged and left as it is: the
    /// rest still works. An error if the link is lost.
    pub(super) async fn restore(&self, link: &Link) -> Result<(), BrokerError> {
        let topology = self.lock().clone();
        let mut channel = link.channel().await?;
        for object in objects(&topology) {
            match declare(link, &mut channel, &object, self.form).await {
                Ok(()) => {}
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "part of the topology cannot be restored");
                    channel = link.channel().await?;
                }
            }
        }
        close(link, &channel).await;
        Ok(())
    }

    pub(super) fn queue_names(&self) -> Vec<Arc<str>> {
        let topology = self.lock();
        topology
            .queues
            .iter()
            .map(|queue| queue.name.clone())
            .collect()
    }

    fn remember(&self, object: &Object<'_>) {
        fn add<T: PartialEq + Clone>(all: &mut Vec<T>, one: &T) {
            if !all.contains(one) {
                all.push(one.clone());
            }
        }
        let mut topology = self.lock();
        match object {
            Object::Exchange(exchange) => add(&mut topology.exchanges, exchange),
            Object::Queue(queue) => add(&mut topology.queues, queue),
            Object::Binding(binding) => add(&mut topology.bindings, binding),
        }
    }

    fn forget_queue(&self, name: &str) {
        let mut topology = self.lock();
        topology.queues.retain(|queue| &*queue.name != name);
        topology.bindings.retain(|binding| &*binding.queue != name);
    }

    fn forget_exchange(&self, name: &str) {
        let mut topology = self.lock();
        topology
            .exchanges
            .retain(|exchange| &*exchange.name != name);
        topology
            .bindings
            .retain(|binding| &*binding.exchange != name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Topology> {
        self.topology.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes a queue and forgets it, so that a reconnect does not bring it back.
    pub(super) async fn delete_queue(&self, link: &Link, queue: &str) -> Result<(), BrokerError> {
        self.forget_queue(queue);
        let channel = link.channel().await?;
        let request = channel.queue_delete(short(queue)?, QueueDeleteOptions::default());
        ignore_missing(link.request(&what_queue(queue), request).await.map(drop))?;
        close(link, &channel).await;
        Ok(())
    }

    /// Deletes an exchange and forgets it.
    pub(super) async fn delete_exchange(&self, link: &Link, name: &str) -> Result<(), BrokerError> {
        self.forget_exchange(name);
        let channel = link.channel().await?;
        let request = channel.exchange_delete(short(name)?, ExchangeDeleteOptions::default());
        ignore_missing(link.request(&what_exchange(name), request).await)?;
        close(link, &channel).await;
        Ok(())
    }
}

/// Counts a queue's ready messages and consumers.
pub(super) async fn stats(link: &Link, queue: &str) -> Result<QueueStats, BrokerError> {
    let channel = link.channel().await?;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let request = channel.queue_declare(short(queue)?, options, FieldTable::default());
    let answer = link.request(&what_queue(queue), request).await?;
    let stats = QueueStats {
        ready: answer.message_count().into(),
        consumers: answer.consumer_count(),
    };
    close(link, &channel).await;
    Ok(stats)
}

/// Removes the ready messages of a queue.
pub(super) async fn purge(link: &Link, queue: &str) -> Result<u64, BrokerError> {
    let channel = link.channel().await?;
    let request = channel.queue_purge(short(queue)?, QueuePurgeOptions::default());
    let count = link.request(&what_queue(queue), request).await?;
    close(link, &channel).await;
    Ok(count.into())
}

fn ignore_missing(result: Result<(), BrokerError>) -> Result<(), BrokerError> {
    match result {
        Err(BrokerError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

/// Closes a channel; that it fails does not matter to what was done on it.
pub(super) async fn close(link: &Link, channel: &Channel) {
    if channel.status().connected() {
        let _ = link
            .request(
                "channel",
                channel.close(200, short("done").unwrap_or_default()),
            )
            .await;
    }
}

enum Object<'a> {
    Exchange(&'a Exchange),
    Queue(&'a Queue),
    Binding(&'a Binding),
}

/// In the order of what needs what: a delay queue after the queue that its messages go to, bindings last.
fn objects(topology: &Topology) -> Vec<Object<'_>> {
    let exchanges = topology.exchanges.iter().map(Object::Exchange);
    let (delays, plain): (Vec<_>, Vec<_>) = topology
        .queues
        .iter()
        .partition(|queue| queue.delay.is_some());
    let queues = plain.into_iter().chain(delays).map(Object::Queue);
    let bindings = topology.bindings.iter().map(Object::Binding);
    exchanges.chain(queues).chain(bindings).collect()
}

async fn declare(
    link: &Link,
    channel: &mut Channel,
    object: &Object<'_>,
    form: QueueForm,
) -> Result<(), BrokerError> {
    match object {
        Object::Exchange(exchange) => declare_exchange(link, channel, exchange).await,
        Object::Queue(queue) if form == QueueForm::UnlimitedQuorum => {
            declare_unlimited(link, channel, queue).await
        }
        Object::Queue(queue) => declare_queue(link, channel, queue, form).await,
        Object::Binding(binding) => bind(link, channel, binding).await,
    }
}

/// A queue from before (the broker was 3.x, or Leveret older) keeps its arguments, and works with the limit.
async fn declare_unlimited(
    link: &Link,
    channel: &mut Channel,
    queue: &Queue,
) -> Result<(), BrokerError> {
    let declared = declare_queue(link, channel, queue, QueueForm::UnlimitedQuorum).await;
    let Err(BrokerError::Mismatch { .. }) = declared else {
        return declared;
    };
    *channel = link.channel().await?;
    declare_queue(link, channel, queue, QueueForm::Quorum).await?;
    if queue.delay.is_none() {
        tracing::warn!(
            queue = &*queue.name,
            "this queue may drop messages that come back often: give it a policy with delivery-limit -1"
        );
    }
    Ok(())
}

async fn declare_exchange(
    link: &Link,
    channel: &Channel,
    exchange: &Exchange,
) -> Result<(), BrokerError> {
    let kind = match exchange.kind {
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
    };
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let name = short(&exchange.name)?;
    let request = channel.exchange_declare(name, kind, options, FieldTable::default());
    link.request(&what_exchange(&exchange.name), request).await
}

async fn declare_queue(
    link: &Link,
    channel: &Channel,
    queue: &Queue,
    form: QueueForm,
) -> Result<(), BrokerError> {
    let arguments = arguments(queue, form);
    let request = channel.queue_declare(
        short(&queue.name)?,
        QueueDeclareOptions::durable(),
        arguments,
    );
    link.request(&what_queue(&queue.name), request).await?;
    Ok(())
}

async fn bind(link: &Link, channel: &Channel, binding: &Binding) -> Result<(), BrokerError> {
    let request = channel.queue_bind(
        short(&binding.queue)?,
        short(&binding.exchange)?,
        short(&binding.routing_key)?,
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    link.request(&what_binding(binding), request).await
}

async fn unbind(link: &Link, channel: &Channel, binding: &Binding) -> Result<(), BrokerError> {
    let request = channel.queue_unbind(
        short(&binding.queue)?,
        short(&binding.exchange)?,
        short(&binding.routing_key)?,
        FieldTable::default(),
    );
    link.request(&what_binding(binding), request).await
}

/// A plain classic queue has none, so that other clients can declare it too.
fn arguments(queue: &Queue, form: QueueForm) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.as_bytes().into());
    let mut arguments = FieldTable::default();
    if form != QueueForm::Classic {
        arguments.insert("x-queue-type".into(), text("quorum"));
    }
    if form == QueueForm::UnlimitedQuorum && queue.delay.is_none() {
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(-1));
    }
    if queue.single_active {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    if let Some(after) = queue.expires_after {
        let ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(ms));
    }
    if let Some(length) = queue.length_max {
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(length));
        arguments.insert("x-overflow".into(), text("reject-publish"));
    }
    if let Some(delay) = &queue.delay {
        let ms = i64::try_from(delay.after.as_millis()).unwrap_or(i64::MAX);
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(ms));
        arguments.insert("x-dead-letter-exchange".into(), text(""));
        arguments.insert("x-dead-letter-routing-key".into(), text(&delay.to));
        if form != QueueForm::Classic {
            // Moves each message with confirms; needs that the queue refuses rather than drops.
            arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
            arguments.insert("x-overflow".into(), text("reject-publish"));
        }
    }
    arguments
}

fn what_queue(name: &str) -> String {
    format!("queue '{name}'")
}

fn what_binding(binding: &Binding) -> String {
    format!(
        "queue '{}' or exchange '{}'",
        binding.queue, binding.exchange
    )
}

fn what_exchange(name: &str) -> String {
    format!("exchange '{name}'")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn plain_queues_have_no_arguments() {
        assert_eq!(
            arguments(&Queue::plain("q"), QueueForm::Classic),
            FieldTable::default()
        );
    }

    #[test]
    fn delay_queues_name_their_time_and_target() {
        let queue = Queue::retry_of("q", Duration::from_millis(1500));
        let arguments = arguments(&queue, QueueForm::Classic);
        let shown: Vec<_> = arguments
            .into_iter()
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        assert_eq!(shown.len(), 3, "{shown:?}");
        assert!(
            shown[2].contains("x-message-ttl=LongLongInt(1500)"),
            "{shown:?}"
        );
    }

    /// A full queue says so to publishers; it never drops what it has.
    #[test]
    fn bounds_are_arguments() {
        let queue = Queue::plain("q")
            .single_active()
            .expires_after(Duration::from_secs(2))
            .length_max(7);
        let arguments = arguments(&queue, QueueForm::Classic);
        let expect = [
            ("x-expires", AMQPValue::LongLongInt(2000)),
            ("x-max-length", AMQPValue::LongLongInt(7)),
            (
                "x-overflow",
                AMQPValue::LongString("reject-publish".as_bytes().into()),
            ),
            ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ];
        let expect = expect.map(|(name, value)| (name.into(), value));
        assert_eq!(
            arguments,
            FieldTable::from(std::collections::BTreeMap::from(expect))
        );
    }

    /// RabbitMQ before 4.0 refuses the argument, and nobody consumes from a delay queue.
    #[test]
    fn quorum_queues_are_unlimited_where_there_is_a_limit() {
        let limit = |queue: &Queue, queue_type, version| {
            let arguments = arguments(queue, QueueForm::new(queue_type, version));
            arguments.inner().get("x-delivery-limit").cloned()
        };
        let plain = Queue::plain("q");
        let unlimited = Some(AMQPValue::LongLongInt(-1));
        assert_eq!(limit(&plain, QueueType::Quorum, "4.0.1"), unlimited);
        assert_eq!(limit(&plain, QueueType::Quorum, "10.2"), unlimited);
        assert_eq!(limit(&plain, QueueType::Quorum, "3.13.7"), None);
        assert_eq!(limit(&plain, QueueType::Quorum, "unknown"), None);
        assert_eq!(limit(&plain, QueueType::Classic, "4.0.1"), None);
        let delay = Queue::retry_of("q", Duration::from_secs(1));
        assert_eq!(limit(&delay, QueueType::Quorum, "4.0.1"), None);
    }

    #[test]
    fn what_is_needed_comes_first() {
        let topology = Topology {
            exchanges: vec![Exchange {
                name: "x".into(),
                kind: ExchangeKind::Topic,
            }],
            queues: vec![
                Queue::retry_of("q", Duration::from_secs(1)),
                Queue::plain("q"),
            ],
            bindings: vec![Binding {
                queue: "q".into(),
                exchange: "x".into(),
                routing_key: "k".into(),
            }],
        };
        let order = objects(&topology).into_iter().map(|object| match object {
            Object::Exchange(exchange) => exchange.name.to_string(),
            Object::Queue(queue) => queue.name.to_string(),
            Object::Binding(_) => "binding".to_owned(),
        });
        assert_eq!(
            order.collect::<Vec<_>>(),
            ["x", "q", "q.retry.1s", "binding"]
        );
    }
}
