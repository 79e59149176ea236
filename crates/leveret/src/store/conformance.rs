//! The conformance suite of the store seam: what every adapter keeps, as named cases.
//!
//! ```text
//! let store = MemoryStore::new();
//! conformance::exercise(move || {
//!     let store = store.clone();
//!     async move { Arc::new(store) as Arc<dyn Store> }
//! })
//! .await;
//! ```
//!
//! Each case works on runs and workflows of its own, with fresh ids, and ends its runs and removes its timers when it ends, so that
//! the suite can run on a database that is in use: its clock stands in the last century, where nobody else's timers
//! are due. Time is an argument throughout; nothing sleeps.

mod committing;
mod concurrent;
mod ending;
mod items;
mod joining;
mod listing;
mod loading;
mod looping;
mod pruning;
mod signals;
mod stalled;
mod starting;
mod values;
mod waiting;
mod workflows;
mod world;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};

use self::world::World;
use super::Store;

/// The longest that one case may take in all.
pub const CASE_TIME_MAX: Duration = Duration::from_secs(60);

/// Opens a handle. All handles of one suite must lead to the same database; they may be the same store.
pub type Opener = Arc<dyn Fn() -> BoxFuture<'static, Arc<dyn Store>> + Send + Sync>;

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
    workflows::versions,
    workflows::newest_of_each_by_page,
    workflows::definitions_by_hash,
    starting::new_then_exists,
    starting::empty_workflow_ends_at_once,
    starting::duplicates_in_a_batch,
    starting::other_handle_sees_it,
    committing::first_writer_wins,
    committing::empty_batch,
    committing::chain_in_one_batch,
    committing::fan_out_and_join_in_one_batch,
    committing::duplicates_in_a_batch,
    committing::many_runs_in_one_batch,
    committing::over,
    committing::last_context_write_wins,
    committing::repeated_step_sets_no_context,
    committing::scopes_are_apart,
    joining::all_across_commits,
    joining::any_is_ready_once,
    looping::passes_are_apart,
    looping::loops_that_do_not_run,
    items::items_end_once,
    items::ends_begin_others,
    items::items_fail,
    items::batches_without_items,
    items::items_have_one_winner,
    items::places_are_read,
    joining::skips_are_recorded,
    joining::skips_cascade_through_stored_joins,
    joining::failures_cancel_what_follows,
    ending::completes_once,
    ending::first_cause_is_kept,
    ending::first_cause_in_one_batch,
    ending::fallback_saves_the_run,
    ending::failed_fallback_fails_the_run,
    ending::fatal_failure_passes_the_fallback,
    ending::cancel_once,
    waiting::timer_is_due_at_its_time,
    waiting::timers_of_a_run,
    waiting::claim_hides_until_it_ends,
    waiting::claims_are_bounded_and_earliest_first,
    waiting::remove_only_if_unchanged,
    waiting::timers_are_set_for_runs_that_ended,
    waiting::next_timer_is_the_earliest,
    waiting::retry_overtakes,
    waiting::completion_removes_its_own_timer_only,
    waiting::waiting_then_completed_in_one_batch,
    loading::everything,
    loading::missing,
    loading::many_at_once,
    loading::redeliveries_are_kept,
    loading::progress_resolves,
    stalled::quiet_runs_are_found,
    stalled::executing_runs_are_put_off,
    stalled::timers_postpone,
    stalled::claims_are_bounded,
    stalled::unbegun_runs_are_claimed_once,
    stalled::a_run_is_marked_unbegun,
    pruning::what_ended_before_is_removed,
    pruning::what_is_still_to_be_told_stays,
    pruning::passes_go_by_pages,
    signals::ends_a_wait,
    signals::is_kept_for_the_next_wait,
    signals::wait_in_order,
    signals::same_id_counts_once,
    signals::refused_where_nobody_is,
    signals::by_key_to_each_run,
    signals::goes_before_the_end_of_time,
    signals::outlives_a_retry,
    signals::to_a_node_that_waits,
    signals::waits_are_listed,
    signals::waiting_runs_are_seldom_looked_at,
    signals::removed_with_their_runs,
    signals::meet_their_waits,
    signals::against_the_end_of_time,
    listing::run_and_steps,
    listing::heads_and_some_steps,
    listing::filters,
    listing::pages_with_equal_times,
    values::strange_texts,
    values::strange_json,
    values::megabyte,
    concurrent::join_has_one_winner,
    concurrent::join_has_one_winner_in_batches,
    concurrent::end_has_one_winner,
    concurrent::overlapping_batches,
    concurrent::same_run_is_started_once,
    concurrent::timers_are_claimed_once,
    concurrent::cancel_against_the_last_step,
];

/// Runs every case, one after the other; panics at the end with the names of those that failed.
///
/// `open` is called for each case, and for each further handle that a case works with. Wants a runtime of several threads, so that
/// concurrent cases are concurrent.
pub async fn exercise<F, Fut>(open: F)
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Arc<dyn Store>> + Send + 'static,
{
    exercise_cases(open, CASES).await;
}

/// Like [`exercise`], for some of the [`CASES`].
pub async fn exercise_cases<F, Fut>(open: F, cases: &[Case])
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Arc<dyn Store>> + Send + 'static,
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
        "{} of {} store conformance cases failed: {}",
        failed.len(),
        cases.len(),
        failed.join(", ")
    );
}

async fn run(case: &Case, open: &Opener) -> Result<(), String> {
    let mut world = World::new(open.clone()).await;
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
