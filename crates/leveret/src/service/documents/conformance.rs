//! The conformance suite of a service's documents: what every adapter keeps, as named cases.
//!
//! ```text
//! conformance::exercise(|| async {
//!     let documents: Arc<dyn Documents> = Arc::new(MemoryDocuments::new(&conformance::kinds())?);
//!     conformance::Fresh::new(move || {
//!         let documents = documents.clone();
//!         async move { documents }
//!     })
//! })
//! .await;
//! ```
//!
//! Each case has documents of its own, empty when it begins. Where they are of this process alone, time is what a case says. Otherwise the
//! store's own clock counts, and cases wait for leases to end: open the adapter with short ones.

mod atomic;
mod deadlines;
mod inbox;
mod listing;
mod outbox;
mod parked;
mod values;
mod versions;
mod world;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};

use self::world::World;
use super::{Documents, Kind};

/// The longest that one case may take in all.
pub const CASE_TIME_MAX: Duration = Duration::from_secs(60);

/// The kinds that the suite works with.
pub fn kinds() -> Vec<Kind> {
    vec![
        Kind::new("order", &["status", "user_id"]),
        Kind::new("stock", &[]),
    ]
}

/// Documents that nobody else works with.
#[derive(Clone)]
pub struct Fresh {
    open: Arc<dyn Fn() -> BoxFuture<'static, Arc<dyn Documents>> + Send + Sync>,
}

impl Fresh {
    /// Documents that `open` gives a handle on. It may give the same one again.
    pub fn new<F, Fut>(open: F) -> Fresh
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Arc<dyn Documents>> + Send + 'static,
    {
        Fresh {
            open: Arc::new(move || open().boxed()),
        }
    }

    async fn open(&self) -> Arc<dyn Documents> {
        (self.open)().await
    }
}

impl std::fmt::Debug for Fresh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fresh")
    }
}

/// One named case.
#[derive(Clone, Copy)]
pub struct Case {
    /// `area::what_it_shows`.
    pub name: &'static str,
    run: for<'a> fn(&'a mut World) -> BoxFuture<'a, ()>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        &[$(Case {
            name: concat!(stringify!($module), "::", stringify!($case)),
            run: |world| Box::pin($module::$case(world)),
        }),*]
    };
}

/// Every case of the suite.
pub const CASES: &[Case] = cases![
    versions::put_then_load,
    versions::missing,
    versions::another_version_conflicts,
    versions::versions_may_skip,
    versions::deleted_keeps_its_version,
    versions::first_time_is_kept,
    versions::state_is_kept,
    versions::several_documents,
    versions::one_writer_wins,
    versions::new_ones_are_made_once,
    atomic::conflict_leaves_nothing,
    atomic::repeated_leaves_nothing,
    atomic::repeated_comes_before_conflict,
    atomic::one_conflict_of_several,
    atomic::batch_is_of_single_ones,
    atomic::overlapping_batches,
    inbox::once,
    inbox::consumers_are_apart,
    inbox::several_in_one,
    inbox::concurrently_once,
    inbox::pruned_when_old,
    outbox::free_lane_is_claimed,
    outbox::lane_keeps_its_order,
    outbox::batch_keeps_the_order,
    outbox::several_lanes_in_one_commit,
    outbox::lanes_span_documents,
    outbox::sent_waits_for_all_of_a_lane,
    outbox::lease_ends,
    outbox::released_at_once,
    outbox::claims_are_bounded,
    outbox::long_lane,
    outbox::no_lane_starves,
    outbox::late_sent,
    outbox::many_claimers,
    outbox::one_lane_from_many_handles,
    outbox::messages_are_whole,
    deadlines::due_only_when_due,
    deadlines::moved_and_cancelled,
    deadlines::claimed_once,
    deadlines::lease_ends,
    deadlines::moved_while_claimed,
    deadlines::fires_once,
    deadlines::names_are_apart,
    deadlines::next_is_told,
    parked::order_and_arrival,
    parked::first_counts,
    parked::unparked,
    parked::without_a_state,
    parked::messages_are_whole,
    listing::by_fields,
    listing::by_each_of_several_values,
    listing::both_orders,
    listing::pages_with_equal_times,
    listing::changed_fields,
    listing::without_a_state_left_out,
    listing::counts,
    listing::backlog,
    values::strange_texts,
    values::strange_json,
    values::megabytes,
    values::large_batch,
    values::nothing,
    values::invalid_is_refused,
    values::closed,
];

/// Runs every case, one after the other, each on what `fresh` gives; panics at the end with the names of those that failed.
///
/// Wants a runtime of several threads, so that concurrent cases are concurrent.
pub async fn exercise<F, Fut>(fresh: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Fresh>,
{
    exercise_cases(fresh, CASES).await;
}

/// Like [`exercise`], for some of the [`CASES`].
pub async fn exercise_cases<F, Fut>(fresh: F, cases: &[Case])
where
    F: Fn() -> Fut,
    Fut: Future<Output = Fresh>,
{
    let mut failed = Vec::new();
    for case in cases {
        let mut world = World::new(fresh().await).await;
        let body = AssertUnwindSafe((case.run)(&mut world)).catch_unwind();
        let why = match tokio::time::timeout(CASE_TIME_MAX, body).await {
            Ok(Ok(())) => None,
            Ok(Err(panic)) => Some(message_of(panic.as_ref())),
            Err(_) => Some(format!("took longer than {CASE_TIME_MAX:?}")),
        };
        world.documents.close().await;
        if let Some(why) = why {
            eprintln!("FAILED  {}: {why}", case.name);
            failed.push(case.name);
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} cases of documents failed: {}",
        failed.len(),
        cases.len(),
        failed.join(", ")
    );
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panicked")
        .to_owned()
}
