//! The conformance suite of the broker seam: what every adapter keeps, as named cases.
//!
//! ```text
//! conformance::exercise(|| async { Arc::new(MyBroker::open().await) as Arc<dyn Broker> }).await;
//! ```
//!
//! Each case works on queues and exchanges of its own, with fresh names, and deletes them when it ends, so that the suite
//! can run against a server that is in use. What sets adapters apart comes from [`Broker::capabilities`]: a case that needs
//! what an adapter does not have is skipped, and says so. Nothing sleeps to be in step: cases wait for deliveries and
//! conditions, for at most [`PATIENCE`].

mod bounds;
mod closing;
mod consuming;
mod messages;
mod queues;
mod routing;
mod settling;
mod world;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};

use self::world::World;
use super::{Broker, Capabilities};

/// The longest that a case waits for one thing that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The longest that one case may take in all.
pub const CASE_TIME_MAX: Duration = Duration::from_secs(60);

/// Opens the broker: the first time, and again after the one before was closed. A durable adapter then finds its topology and
/// messages again.
pub type Opener = Arc<dyn Fn() -> BoxFuture<'static, Arc<dyn Broker>> + Send + Sync>;

/// One named case.
#[derive(Clone, Copy)]
pub struct Case {
    /// `area::what_it_shows`.
    pub name: &'static str,
    applies: fn(Capabilities) -> bool,
    run: for<'a> fn(&'a mut World) -> BoxFuture<'a, ()>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($module:ident :: $case:ident $(if $capability:ident)?),* $(,)?) => {
        &[$(Case {
            name: concat!(stringify!($module), "::", stringify!($case)),
            applies: |_capabilities| true $(&& _capabilities.$capability)?,
            run: |world| Box::pin($module::$case(world)),
        }),*]
    };
}

/// Every case of the suite.
pub const CASES: &[Case] = cases![
    routing::default_exchange,
    routing::direct,
    routing::topic,
    routing::fanout,
    routing::bound_twice_arrives_once,
    routing::unroutable_is_an_error_and_the_rest_succeeds,
    routing::unknown_exchange_is_an_error,
    routing::declare_is_idempotent,
    routing::declare_mismatch_is_an_error,
    routing::binding_to_nothing_is_an_error,
    routing::unbind,
    messages::properties_and_headers_round_trip,
    messages::headers_that_cannot_be_kept_are_refused,
    messages::bodies_round_trip,
    messages::thousand_messages_in_order,
    messages::publishers_overlap,
    consuming::waiting_consumer_is_woken,
    consuming::prefetch_is_a_bound,
    consuming::two_consumers_share_a_queue,
    consuming::missing_queue_is_not_found,
    consuming::states,
    consuming::cancel_returns_the_unread,
    consuming::drop_returns_the_unread,
    consuming::consumer_outlives_its_queue,
    settling::ack_removes,
    settling::requeue_returns_redelivered,
    settling::reject_drops,
    settling::dropped_delivery_returns,
    settling::out_of_order,
    settling::batch_of_acks,
    settling::publish_then_ack,
    settling::publish_then_ack_gives_receipts_back,
    settling::publish_then_ack_is_atomic if atomic_publish_then_ack,
    settling::publish_then_ack_tells_what_is_left,
    settling::what_was_deleted_is_declared_again,
    queues::stats,
    queues::purge,
    queues::delete_queue,
    queues::delete_exchange,
    queues::delay_moves_messages_in_order,
    queues::delay_queue_counts_and_purges,
    queues::delay_survives_reopening if durable,
    bounds::one_consumer_is_active,
    bounds::unused_queues_expire,
    bounds::full_queues_refuse,
    bounds::full_queues_refuse_under_way,
    bounds::bounds_are_kept if durable,
    closing::close_is_idempotent_and_final,
    closing::publish_then_ack_after_close_gives_receipts_back,
    closing::messages_survive_reopening if durable,
    closing::unsettled_deliveries_come_again if durable,
];

/// Runs every case that applies, one after the other; panics at the end with the names of those that failed.
///
/// `open` is called for each case, and again by the cases that reopen. The broker before is always closed by then.
pub async fn exercise<F, Fut>(open: F)
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Arc<dyn Broker>> + Send + 'static,
{
    exercise_cases(open, CASES).await;
}

/// Like [`exercise`], for some of the [`CASES`].
pub async fn exercise_cases<F, Fut>(open: F, cases: &[Case])
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Arc<dyn Broker>> + Send + 'static,
{
    let open: Opener = Arc::new(move || open().boxed());
    let mut failed = Vec::new();
    for case in cases {
        if let Err(why) = run(case, &open).await {
            eprintln!("FAILED  {}: {why}", case.name);
            failed.push(case.name);
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} broker conformance cases failed: {}",
        failed.len(),
        cases.len(),
        failed.join(", ")
    );
}

async fn run(case: &Case, open: &Opener) -> Result<(), String> {
    let mut world = World::new(open.clone()).await;
    if !(case.applies)(world.capabilities()) {
        eprintln!(
            "skipped {}: not among this adapter's capabilities",
            case.name
        );
        world.clean_up().await;
        return Ok(());
    }
    let body = AssertUnwindSafe((case.run)(&mut world)).catch_unwind();
    let outcome = match tokio::time::timeout(CASE_TIME_MAX, body).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(panic)) => Err(message_of(panic.as_ref())),
        Err(_) => Err(format!("took longer than {CASE_TIME_MAX:?}")),
    };
    world.clean_up().await;
    outcome
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panicked")
        .to_owned()
}
