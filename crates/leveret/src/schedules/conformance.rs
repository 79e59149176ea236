//! What every place for schedules promises. Call [`exercise`] with an empty one.

use leveret_core::{
    ids::{RunId, ScheduleId},
    schedule::{Firing, FiringState, Schedule, Spec},
    time::Timestamp,
};
use serde_json::json;

use super::{Change, HISTORY_MAX, Kept, Schedules};

/// Checks all promises. Panics with the one that is broken. The place must be empty before, and is afterwards.
pub async fn exercise(schedules: &dyn Schedules) {
    changes_take_turns(schedules).await;
    what_is_due_is_found(schedules).await;
    history_is_kept_and_forgotten(schedules).await;
}

fn id(name: &str) -> ScheduleId {
    ScheduleId::new(name).expect("an id")
}

fn new(name: &str, look_at: Option<i64>) -> Change {
    let spec = json!({ "workflow_id": "w", "every": "1s", "input": { "ä": [1, null] } });
    let spec: Spec = serde_json::from_value(spec).expect("a spec");
    let compiled = spec.compile(Timestamp(0)).expect("it is due");
    Change {
        id: id(name),
        version: 0,
        schedule: Schedule::new(spec, &compiled, Timestamp(0)),
        look_at: look_at.map(Timestamp),
        over: Vec::new(),
    }
}

fn over(number: u64) -> Firing {
    Firing {
        number,
        due_at: Timestamp(number as i64),
        manual: false,
        state: FiringState::Started,
        at: Timestamp(7),
        run_id: Some(RunId::new("r").expect("an id")),
        detail: None,
    }
}

async fn change(schedules: &dyn Schedules, change: &Change) -> bool {
    schedules.change(change).await.expect("it answers")
}

async fn get(schedules: &dyn Schedules, name: &str) -> Option<Kept> {
    schedules.get(&id(name)).await.expect("it answers")
}

/// Of several that read the same version one changes it, with its history; so it is with one that is not there.
async fn changes_take_turns(schedules: &dyn Schedules) {
    let first = new("a", None);
    assert_eq!(get(schedules, "a").await, None);
    assert!(change(schedules, &first).await, "it is new");
    assert!(!change(schedules, &first).await, "it is there");
    let kept = get(schedules, "a").await.expect("it is there");
    assert_eq!((kept.version, &kept.schedule), (1, &first.schedule));
    let mut second = Change {
        version: 1,
        over: vec![over(1)],
        ..first.clone()
    };
    second.schedule.firings = 1;
    let mut late = second.clone();
    late.over = vec![over(2)];
    let (one, other) = tokio::join!(schedules.change(&second), schedules.change(&late));
    let (one, other) = (one.expect("it answers"), other.expect("it answers"));
    assert!(one != other, "one of two changes a version");
    let history = schedules
        .history(&id("a"), None, 10)
        .await
        .expect("it answers");
    assert_eq!(history, [over(if one { 1 } else { 2 })]);
    assert_eq!(get(schedules, "a").await.expect("there").version, 2);
    let unknown = Change {
        version: 3,
        ..new("b", None)
    };
    assert!(!change(schedules, &unknown).await, "it is not there");
    assert_eq!(get(schedules, "b").await, None);
    assert!(schedules.remove(&id("a")).await.expect("it answers"));
    assert!(!schedules.remove(&id("a")).await.expect("it answers"));
    let history = schedules
        .history(&id("a"), None, 10)
        .await
        .expect("it answers");
    assert_eq!(history, [], "it went with its schedule");
}

/// In the order of their looks, and by name.
async fn what_is_due_is_found(schedules: &dyn Schedules) {
    assert_eq!(schedules.next_look().await.expect("it answers"), None);
    for (name, look_at) in [
        ("c", Some(30)),
        ("a", None),
        ("B", Some(10)),
        ("b", Some(20)),
    ] {
        assert!(change(schedules, &new(name, look_at)).await);
    }
    let names = |kept: Vec<Kept>| {
        kept.iter()
            .map(|kept| kept.id.to_string())
            .collect::<Vec<_>>()
    };
    let due = |now, limit| async move {
        names(
            schedules
                .due(Timestamp(now), limit)
                .await
                .expect("it answers"),
        )
    };
    assert_eq!(due(9, 10).await, [""; 0]);
    assert_eq!(due(20, 10).await, ["B", "b"]);
    assert_eq!(due(i64::MAX - 1, 10).await, ["B", "b", "c"]);
    assert_eq!(due(99, 1).await, ["B"]);
    let next = schedules.next_look().await.expect("it answers");
    assert_eq!(next, Some(Timestamp(10)));
    let page = |after: Option<&'static str>, limit| async move {
        let after = after.map(id);
        names(
            schedules
                .list(after.as_ref(), limit)
                .await
                .expect("it answers"),
        )
    };
    assert_eq!(page(None, 10).await, ["B", "a", "b", "c"]);
    assert_eq!(page(None, 2).await, ["B", "a"]);
    assert_eq!(page(Some("a"), 10).await, ["b", "c"]);
    for name in ["a", "b", "c", "B"] {
        assert!(schedules.remove(&id(name)).await.expect("it answers"));
    }
}

/// The newest first, in pages, and not for ever.
async fn history_is_kept_and_forgotten(schedules: &dyn Schedules) {
    let mut all = new("a", None);
    all.over = (1..=5).map(over).collect();
    all.schedule.firings = 5;
    assert!(change(schedules, &all).await);
    let numbers = |before, limit| async move {
        let page = schedules
            .history(&id("a"), before, limit)
            .await
            .expect("it answers");
        page.iter().map(|firing| firing.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(None, 2).await, [5, 4]);
    assert_eq!(numbers(Some(4), 10).await, [3, 2, 1]);
    all.version = 1;
    all.schedule.firings = HISTORY_MAX + 3;
    all.over = vec![over(HISTORY_MAX + 3)];
    assert!(change(schedules, &all).await);
    assert_eq!(numbers(None, 10).await, [HISTORY_MAX + 3, 5, 4]);
    assert!(schedules.remove(&id("a")).await.expect("it answers"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedules::MemorySchedules;

    #[tokio::test]
    async fn memory_conforms() {
        exercise(&MemorySchedules::default()).await;
    }
}
