//! Sagas of a shop and a mill: flour is ordered, ground, delivered.

use std::{sync::Arc, time::Duration};

use leveret_core::{
    event::{AggregateRef, Event},
    json::Json,
    time::Timestamp,
};
use serde_json::json;

use super::{Course, ENTRIES_MAX, Expectation, Rules, STATE, SagaMessage, Sagas, State};
use crate::service::{
    Refusal,
    decider::{Decider, Decision, View},
    documents::{DeadlineChange, Document},
};

const SAGA: &str = "0192d3a4-7b1e-5c6d-8e9f-0a1b2c3d4e5f";
const SECOND: Duration = Duration::from_secs(1);

fn sagas() -> Sagas {
    let patient = |event: &Event| {
        let data: serde_json::Value = serde_json::from_str(event.data.text()).unwrap();
        if data["rush"] == true {
            SECOND
        } else {
            10 * SECOND
        }
    };
    let rules = Rules::new()
        .end("flour.burnt", "burnt")
        .end("flour.delivered", "delivered")
        .expect(
            Expectation::new(
                "grinding",
                "flour.ordered",
                &["flour.ground"],
                SECOND,
                "nobody grinds",
            )
            .within(patient),
        )
        .expect(
            Expectation::new(
                "delivery",
                "flour.ground",
                &["flour.delivered"],
                10 * SECOND,
                "it stands still",
            )
            .restarted_by(&["cart.moved"]),
        )
        .expect(
            Expectation::new(
                "money-back",
                "flour.burnt",
                &["money.returned"],
                5 * SECOND,
                "",
            )
            .and_after("flour.paid")
            .because(|event| format!("the money of {} is not returned", event.event_type))
            .outlives_the_end(),
        );
    Sagas::new("saga", rules)
}

fn id(number: u32) -> Arc<str> {
    format!("00000000-0000-0000-0000-{number:012}").into()
}

/// The `number`-th event, of an aggregate of its own, so many seconds after the beginning.
fn event(number: u32, event_type: &str, at_s: i64) -> Event {
    Event {
        event_id: id(number),
        event_type: event_type.into(),
        event_version: 1,
        timestamp: Timestamp(at_s * 1000),
        source: "mill-service".into(),
        correlation_id: SAGA.into(),
        causation_id: None,
        aggregate: AggregateRef {
            id: format!("a{number}").into(),
            version: 1,
        },
        data: Json::from_value(json!({})),
    }
}

fn caused_by(cause: u32, mut event: Event) -> Event {
    event.causation_id = Some(id(cause));
    event
}

fn decide(
    course: Option<&Course>,
    message: &SagaMessage,
    now_s: i64,
) -> Result<Decision<Course>, Refusal> {
    let sagas = sagas();
    let document = Document {
        key: sagas.key(SAGA),
        version: u64::from(course.is_some()),
        state: course.map(|course| Json::from_serialize(course).unwrap()),
        created_at: Timestamp(0),
        parked: Vec::new(),
    };
    let now = Timestamp(now_s * 1000);
    sagas.decide(&View::new(&[Arc::new(document)]), message, now)
}

/// What these events make, in this order, each heard at this time.
fn course(events: &[Event], now_s: i64) -> Course {
    let mut course = None;
    for event in events {
        let message = SagaMessage::Happened(Box::new(event.clone()));
        course = Some(decide(course.as_ref(), &message, now_s).unwrap().answer);
    }
    course.unwrap()
}

fn shown(course: &Course, now_s: i64) -> String {
    let sagas = sagas();
    let now = Timestamp(now_s * 1000);
    let missing = course.missing(sagas.rules()).into_iter();
    let missing: Vec<_> = missing.map(|missing| missing.expectation).collect();
    let late: Vec<_> = course.late.iter().map(|late| &*late.expectation).collect();
    format!(
        "{} {:?} because {:?}, missing {missing:?}, late {late:?}",
        course.state(sagas.rules(), now).as_str(),
        course.end(sagas.rules()),
        course.reasons(sagas.rules(), now),
    )
}

fn permutations<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in items.iter().enumerate() {
        let mut rest = items.to_vec();
        rest.remove(at);
        for mut tail in permutations(&rest) {
            tail.insert(0, first.clone());
            all.push(tail);
        }
    }
    all
}

#[test]
fn from_the_beginning_to_the_end() {
    let ordered = event(1, "flour.ordered", 0);
    let ground = caused_by(1, event(2, "flour.ground", 5));
    let delivered = caused_by(2, event(3, "flour.delivered", 9));
    let check = |events: &[Event], now_s, expected: &str| {
        assert_eq!(shown(&course(events, now_s), now_s), expected);
    };
    let mut events = vec![ordered];
    check(
        &events,
        1,
        r#"running None because [], missing ["grinding"], late []"#,
    );
    check(
        &events,
        10,
        r#"stuck None because ["nobody grinds"], missing ["grinding"], late []"#,
    );
    events.push(ground);
    check(
        &events,
        10,
        r#"running None because [], missing ["delivery"], late []"#,
    );
    events.push(delivered);
    check(
        &events,
        99,
        r#"ended Some("delivered") because [], missing [], late []"#,
    );
    let course = course(&events, 99);
    let reactions = course.reactions(&course.entries[0]);
    let reactions: Vec<_> = reactions.map(|entry| &*entry.event_type).collect();
    assert_eq!(reactions, ["flour.ground"]);
}

/// An event's data can say how long to wait, and clocks that are ahead give no more time.
#[test]
fn patience() {
    let mut rush = event(1, "flour.ordered", 0);
    rush.data = Json::from_value(json!({ "rush": true }));
    assert!(shown(&course(&[rush], 1), 1).starts_with("stuck"));
    let ahead = event(1, "flour.ordered", 1_000);
    let ahead = course(&[ahead], 1);
    assert!(shown(&ahead, 10).starts_with("running"));
    assert!(shown(&ahead, 11).starts_with("stuck"));
}

/// Each move of the cart gives it time; one that comes after its time is late.
#[test]
fn what_begins_the_time_anew() {
    let mut events = vec![
        event(2, "flour.ground", 0),
        event(3, "cart.moved", 8),
        event(4, "cart.moved", 16),
    ];
    assert!(shown(&course(&events, 25), 25).starts_with("running"));
    let at_26 = course(&events, 26);
    assert_eq!(
        shown(&at_26, 26),
        r#"stuck None because ["it stands still"], missing ["delivery"], late []"#
    );
    events.push(event(5, "cart.moved", 30));
    let expected = r#"running None because [], missing ["delivery"], late ["delivery"]"#;
    assert_eq!(shown(&course(&events, 31), 31), expected);
}

/// What is expected after two things, in whatever order, and of a saga that has ended.
#[test]
fn after_the_end() {
    let (paid, burnt) = (event(1, "flour.paid", 0), event(2, "flour.burnt", 3));
    let returned = event(3, "money.returned", 9);
    let unpaid = course(std::slice::from_ref(&burnt), 99);
    assert!(shown(&unpaid, 99).starts_with(r#"ended Some("burnt")"#));
    for events in permutations(&[paid, burnt]) {
        let both = course(&events, 4);
        assert!(shown(&both, 7).starts_with("running"));
        assert!(shown(&both, 8).contains("is not returned"));
        let events = [&events[..], std::slice::from_ref(&returned)].concat();
        let expected = r#"ended Some("burnt") because [], missing [], late ["money-back"]"#;
        assert_eq!(shown(&course(&events, 9), 9), expected);
    }
}

/// In whatever order events come, the course is the same: causes first, aggregates in their order, else by time. Clocks may differ.
#[test]
fn in_any_order() {
    let mut second = event(3, "cart.moved", 2);
    second.aggregate = AggregateRef {
        id: "a2".into(),
        version: 2,
    };
    let events = [
        event(1, "flour.ordered", 3),
        // By a clock that is behind.
        caused_by(1, event(2, "flour.ground", 1)),
        caused_by(2, second),
        caused_by(3, event(4, "flour.delivered", 9)),
        event(5, "weather.fine", 8),
    ];
    let types = |course: &Course| {
        let entries = course.entries.iter();
        let types: Vec<String> = entries.map(|entry| entry.event_type.to_string()).collect();
        types.join(" ")
    };
    let expected = "flour.ordered flour.ground cart.moved weather.fine flour.delivered";
    for events in permutations(&events) {
        let course = course(&events, 9);
        assert_eq!(types(&course), expected);
        assert_eq!(course.state(sagas().rules(), Timestamp(9000)), State::Ended);
    }
}

/// Events that name each other as their causes are kept all the same.
#[test]
fn causes_in_a_circle() {
    let events = [
        caused_by(2, event(1, "flour.ordered", 0)),
        caused_by(1, event(2, "flour.ground", 1)),
        caused_by(3, event(3, "cart.moved", 2)),
    ];
    for events in permutations(&events) {
        assert_eq!(course(&events, 2).entries.len(), 3);
    }
}

#[test]
fn once_and_bounded() {
    let mut course = course(&[event(0, "cart.moved", 0)], 0);
    let again = SagaMessage::Happened(Box::new(event(0, "cart.moved", 0)));
    assert!(matches!(
        decide(Some(&course), &again, 0),
        Err(Refusal::Stale { .. })
    ));
    let rules = sagas();
    for number in 1..=ENTRIES_MAX as u32 {
        assert!(course.add(rules.rules(), &event(number, "cart.moved", 0), Timestamp(0)));
    }
    assert_eq!((course.entries.len(), course.more), (ENTRIES_MAX, 1));
    // What is beyond counts for what is expected.
    course.add(
        rules.rules(),
        &event(5_000, "flour.delivered", 1),
        Timestamp(1),
    );
    assert_eq!(course.state(rules.rules(), Timestamp(1)), State::Ended);
}

/// The deadline is set to what is due next, and found by its state when that has passed.
#[test]
fn deadlines() {
    let happened = SagaMessage::Happened(Box::new(event(1, "flour.ordered", 0)));
    let first = decide(None, &happened, 1).unwrap();
    let set = |decision: &Decision<Course>| match &decision.deadlines[..] {
        [DeadlineChange::Set { at, .. }] => Some(at.0),
        [DeadlineChange::Cancel { .. }] => None,
        other => panic!("{other:?}"),
    };
    let field = |decision: &Decision<Course>| {
        let mut fields = decision.put[0].fields.iter();
        let found = fields.find(|(name, _)| &**name == STATE);
        found.map(|(_, value)| value.to_string()).unwrap()
    };
    assert_eq!((set(&first), &*field(&first)), (Some(10_000), "running"));
    let overdue = SagaMessage::Overdue(SAGA.to_owned());
    let fired = decide(Some(&first.answer), &overdue, 10).unwrap();
    assert_eq!((set(&fired), &*field(&fired)), (None, "stuck"));
    assert!(matches!(
        decide(None, &overdue, 10),
        Err(Refusal::Stale { .. })
    ));
    assert_eq!(sagas().key(&SAGA.to_uppercase()), sagas().key(SAGA));
}

#[test]
fn as_json() {
    let events = [
        event(1, "flour.ordered", 0),
        caused_by(1, event(2, "flour.ground", 12)),
    ];
    let course = course(&events, 12);
    let shown = course.shown(sagas().rules(), Timestamp(30_000));
    assert_eq!(shown["state"], "stuck");
    assert_eq!(shown["reason"], "it stands still");
    assert_eq!(shown["entries"][0]["type"], "flour.ordered");
    let reaction = json!([{ "source": "mill-service", "type": "flour.ground", "eventId": id(2) }]);
    assert_eq!(shown["entries"][0]["reactedBy"], reaction);
    assert_eq!(shown["missing"][0]["overdue"], true);
    assert_eq!(shown["missing"][0]["due"], "1970-01-01T00:00:22.000Z");
    assert_eq!(shown["late"][0]["due"], "1970-01-01T00:00:10.000Z");
    assert_eq!(shown["events"], 2);
}
