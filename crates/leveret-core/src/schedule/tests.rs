//! What a schedule takes, by the second: a line says what happens, and what comes of it.

use std::fmt::Write as _;

use insta::assert_snapshot;
use serde_json::json;

use super::*;

/// A schedule of every ten seconds since 0.
struct World {
    schedule: Schedule,
    compiled: Compiled,
}

impl World {
    #[expect(clippy::needless_pass_by_value)] // As `json!` makes it.
    fn new(more: serde_json::Value) -> World {
        let mut spec = json!({ "workflow_id": "w", "every": "10s" });
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let compiled = spec.compile(Timestamp(0)).unwrap();
        let schedule = Schedule::new(spec, &compiled, Timestamp(0));
        World { schedule, compiled }
    }

    /// Looks at a second; starts what is to be started unless the look is the last of its process.
    fn look(&mut self, second: i64, is_running: bool) -> String {
        let now = Timestamp(second * 1000);
        let run_id_of = |due: Timestamp| RunId::new(format!("r{}", due.0 / 1000)).unwrap();
        let skipped = self
            .schedule
            .take(&self.compiled, "s", now, is_running, run_id_of);
        let mut told = format!("{second}:");
        for number in self
            .schedule
            .starting
            .iter()
            .map(|f| f.number)
            .collect::<Vec<_>>()
        {
            let firing = self.schedule.started(number, now, None).unwrap();
            write!(told, " +{}", firing.run_id.unwrap()).unwrap();
        }
        for firing in &self.schedule.queued {
            write!(told, " ~{}", firing.due_at.0 / 1000).unwrap();
        }
        for firing in skipped {
            write!(
                told,
                " -{} ({})",
                firing.due_at.0 / 1000,
                firing.detail.unwrap()
            )
            .unwrap();
        }
        let next = self.schedule.look_at(&self.compiled, "s", now, now);
        write!(told, " next {:?}", next.map(|next| next.0)).unwrap();
        told
    }
}

#[test]
fn due_times_are_taken_once() {
    let mut world = World::new(json!({}));
    assert_snapshot!(world.look(9, false), @"9: next Some(10000)");
    assert_snapshot!(world.look(10, false), @"10: +r10 next Some(20000)");
    assert_snapshot!(world.look(10, false), @"10: next Some(20000)");
    // Late by less than a minute: all are fired, but they overlap.
    assert_snapshot!(world.look(45, false), @"45: +r20 -30 (the run before is still running) -40 (the run before is still running) next Some(50000)");
    assert_snapshot!(world.look(51, true), @"51: -50 (the run before is still running) next Some(60000)");
}

#[test]
fn runs_may_overlap_or_wait() {
    let mut world = World::new(json!({ "overlap": "allow" }));
    assert_snapshot!(world.look(30, true), @"30: +r10 +r20 +r30 next Some(40000)");
    let mut world = World::new(json!({ "overlap": "queue" }));
    assert_snapshot!(world.look(30, true), @"30: ~10 ~20 ~30 next Some(30500)");
    assert_snapshot!(world.look(31, false), @"31: +r10 ~20 ~30 next Some(31500)");
    assert_snapshot!(world.look(40, false), @"40: +r20 ~30 ~40 next Some(40500)");
    for second in 41..45 {
        world.look(second, false);
    }
    assert_snapshot!(world.look(50, false), @"50: +r50 next Some(60000)");
    let mut world = World::new(json!({ "overlap": "queue", "catch_up": "all" }));
    world.look(1000, true);
    assert_snapshot!(world.look(1020, true).split(" -").nth(1).unwrap(), @"1010 (100 wait already)");
}

#[test]
fn what_was_missed_is_made_up_for_as_asked() {
    let mut world = World::new(json!({ "catch_up": "none", "overlap": "allow" }));
    assert_snapshot!(world.look(100, false), @"100: +r40 +r50 +r60 +r70 +r80 +r90 +r100 -30 (missed, with all since 1970-01-01T00:00:10.000Z) next Some(110000)");
    let mut world = World::new(json!({ "catch_up": "one", "overlap": "allow" }));
    assert_snapshot!(world.look(100, false), @"100: +r30 +r40 +r50 +r60 +r70 +r80 +r90 +r100 next Some(110000)");
    let mut world = World::new(json!({ "catch_up": "all", "overlap": "allow" }));
    let told = world.look(10_000, false);
    assert_eq!(told.matches('+').count(), TAKEN_MAX);
    assert_snapshot!(&told[..40], @"10000: +r10 +r20 +r30 +r40 +r50 +r60 +r7");
    assert!(told.ends_with(" next Some(1010000)"), "{told}");
}

#[test]
fn pauses_miss_nothing() {
    let mut world = World::new(json!({}));
    world.schedule.pause(Timestamp(5000));
    assert_snapshot!(world.look(100, false), @"100: next None");
    world.schedule.resume(&world.compiled, Timestamp(101_000));
    assert_snapshot!(world.look(105, false), @"105: next Some(110000)");
    // By hand, also while another runs.
    world
        .schedule
        .fire_now(RunId::new("hand").unwrap(), Timestamp(106_000));
    assert_snapshot!(world.look(106, true), @"106: +hand next Some(110000)");
}

/// What is taken and not started stands there until somebody does it, by the same id.
#[test]
fn a_crash_between_taking_and_starting_loses_nothing() {
    let mut world = World::new(json!({}));
    let name = |_| RunId::new("r").unwrap();
    let now = Timestamp(10_000);
    assert!(
        world
            .schedule
            .take(&world.compiled, "s", now, false, name)
            .is_empty()
    );
    let claimed = Timestamp(15_000);
    assert_eq!(
        world.schedule.look_at(&world.compiled, "s", now, claimed),
        Some(claimed)
    );
    let text = serde_json::to_string(&world.schedule).unwrap();
    let mut read: Schedule = serde_json::from_str(&text).unwrap();
    assert_eq!(read, world.schedule);
    // Another server takes nothing twice.
    assert!(
        read.take(&world.compiled, "s", claimed, false, name)
            .is_empty()
    );
    assert_eq!(read.starting.len(), 1);
    let failed = read.started(1, claimed, Some("no".to_owned())).unwrap();
    assert_eq!((failed.state, read.last_run), (FiringState::Failed, None));
}

#[test]
fn other_times_count_from_the_change() {
    let mut world = World::new(json!({}));
    let mut spec = world.schedule.spec.clone();
    spec.input = json!(1).into();
    world
        .schedule
        .change(spec.clone(), &world.compiled, Timestamp(4000));
    assert_eq!(world.schedule.next_due, Some(Timestamp(10_000)));
    spec.every = Some(json!(7000));
    let compiled = spec.compile(Timestamp(4000)).unwrap();
    world.schedule.change(spec, &compiled, Timestamp(4000));
    assert_eq!(
        world.schedule.upcoming(&compiled, 3),
        [11_000, 18_000, 25_000].map(Timestamp)
    );
}

#[test]
fn specs_are_checked() {
    let check = |spec: serde_json::Value| match serde_json::from_value::<Spec>(spec) {
        Ok(spec) => match spec.compile(Timestamp(0)) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    assert_snapshot!(check(json!({ "workflow_id": "w", "every": "0s" })), @"`every` must be from 100ms to a hundred years, not 0ns");
    assert_snapshot!(check(json!({ "workflow_id": "w", "every": "soon" })), @"`every` is no time: say milliseconds, or '250ms', '10s', '5m', '1h' or '2d'");
    assert_snapshot!(check(json!({ "workflow_id": "w" })), @"say either `every` or `cron`");
    assert_snapshot!(check(json!({ "workflow_id": "w", "every": "1s", "cron": "* * * * *" })), @"say either `every` or `cron`");
    assert_snapshot!(check(json!({ "workflow_id": "w", "every": "1s", "time_zone": "UTC" })), @"`time_zone` goes with `cron`");
    assert_snapshot!(check(json!({ "workflow_id": "w", "every": "1s", "jitter": "1s" })), @"`jitter` must be shorter than the interval, and than a day");
    assert_snapshot!(check(json!({ "workflow_id": "w", "cron": "0 0 30 2 *" })), @"'0 0 30 2 *' is never due");
    assert_snapshot!(check(json!({ "workflow_id": "w", "every": "1s", "overlap": "maybe" })), @"unknown variant `maybe`, expected one of `skip`, `queue`, `allow`");
    assert_snapshot!(check(json!({ "workflow_id": "w", "every": 100, "jitter": 99 })), @"fine");
}

/// The same share each time, within the bound, and not the same for all.
#[test]
fn jitter_is_a_share_that_all_agree_on() {
    let world = World::new(json!({ "jitter": "5s" }));
    let late = |id: &str, due: i64| world.compiled.fires_at(id, Timestamp(due)).0 - due;
    let shares: Vec<_> = (0..50).map(|n| late("s", n * 10_000)).collect();
    assert!(shares.iter().all(|late| (0..=5000).contains(late)));
    assert_eq!(shares[7], late("s", 70_000));
    assert!(shares.iter().any(|late| *late < 2000) && shares.iter().any(|late| *late > 3000));
    assert_ne!(late("a", 0), late("b", 0));
}
