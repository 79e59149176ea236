//! Workers are killed in the middle of their work, one after the other.

use std::time::Instant;

use super::{
    load::{Load, workflow},
    rig::{NEVER, Rig, Worker},
    servers::Place,
};

/// How often a worker is killed.
const KILLS: usize = 50;
/// How many runs end between two kills.
const RUNS_BETWEEN: usize = 20;

/// Two workers, each killed 25 times with `kill -9` and started again: every accepted run ends once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_run_ends_once_whichever_worker_is_killed() {
    let Some(place) = Place::shared("kill-workers").await else {
        return;
    };
    let rig = Rig::start(place, NEVER).await;
    let begun = Instant::now();
    let load = Load::start(&rig.engine, &workflow("kill", &[]), 16);
    let mut workers = [Worker::start(&rig.place), Worker::start(&rig.place)];
    for n in 0..KILLS {
        rig.until_ended(RUNS_BETWEEN).await;
        workers[n % 2] = Worker::start(&rig.place);
    }
    let accepted = load.stop().await;
    rig.assert_each_once(&accepted).await;
    println!(
        "{KILLS} kills, {} runs, {:.1} s",
        accepted.len(),
        begun.elapsed().as_secs_f64()
    );
    rig.assert_no_dead_letters().await;
    drop(workers);
    rig.end().await;
}
