//! What an event means in each state, as a table.

use std::time::Duration;

use leveret::{
    core::{event, time::Timestamp},
    service::{Aggregate, Publish, events::Emitter},
};

use super::*;
use crate::{
    events::{
        CATALOGUE, EXECUTION, ExecutionFailed, OS, WorkOrderApproved, WorkOrderCancelled,
        WorkOrderCreated, WorkOrderStatusChanged,
    },
    money::Money,
    statuses::PaymentStatus,
};

const NOW: Timestamp = Timestamp(1_767_225_600_000);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

fn id(name: &str) -> Id {
    Id::derived(&["test", name])
}

/// What is said to a bill, in a word.
fn message(word: &str) -> BillMessage {
    let emitter = |party| Emitter::new(&CATALOGUE, party, Cause::root(id("order").as_str()), NOW);
    let read = |publish: Publish| event::decode(&publish.publication.message.body).unwrap();
    let happened = |happened| BillMessage::Happened(Box::new(happened));
    let ask = |what| {
        BillMessage::Ask(Box::new(Ask {
            work_order_id: id("order"),
            keyed: None,
            what,
        }))
    };
    let outcome = |outcome| BillMessage::Outcome {
        work_order_id: id("order"),
        payment_id: id("payment"),
        outcome,
    };
    let quote_id = Id::derived(&["quote", id("order").as_str()]);
    let (work_order_id, customer_id, charge_id) = (id("order"), 7, "17".to_owned());
    match word {
        "created" | "created-unestimated" => {
            let data = WorkOrderCreated {
                work_order_id,
                customer_id,
                vehicle_id: 1,
                description: "it squeaks".into(),
                estimated_cost: (word == "created").then_some(Money(15_000)),
            };
            let event = read(emitter(OS).event(&data, 1));
            happened(Happened::created(&event, data, WEEK))
        }
        "changed" | "changed-later" => {
            let data = WorkOrderStatusChanged {
                work_order_id,
                previous_status: WorkOrderStatus::Pending,
                new_status: WorkOrderStatus::QuoteSent,
            };
            let version = if word == "changed" { 2 } else { 9 };
            let event = read(emitter(OS).event(&data, version));
            happened(Happened::status_changed(&event, data))
        }
        "agreed" => {
            let data = WorkOrderApproved {
                work_order_id,
                customer_id,
            };
            let event = read(emitter(OS).event(&data, 3));
            happened(Happened::approved(&event, data))
        }
        "cancelled" => {
            let data = WorkOrderCancelled {
                work_order_id,
                customer_id,
                reason: None,
            };
            let event = read(emitter(OS).event(&data, 4));
            happened(Happened::cancelled(&event, data))
        }
        "broken" => {
            let data = ExecutionFailed {
                execution_id: id("execution"),
                work_order_id,
                reason: "it cannot be mended".into(),
            };
            let event = read(emitter(EXECUTION).event(&data, 2));
            happened(Happened::execution_failed(&event, data))
        }
        "quote" => ask(What::Quote(NewQuote {
            id: id("quote"),
            customer_id,
            items: Vec::new(),
            total: Money(15_000),
            valid_until: NOW + WEEK,
            metadata: None,
        })),
        "approve" => ask(What::Approve { quote_id }),
        "reject" => ask(What::Reject {
            quote_id,
            reason: None,
        }),
        "send" => ask(What::Send { quote_id }),
        "pay" | "pay-later" => ask(What::Pay(NewPayment {
            id: id("payment"),
            quote_id,
            customer_id,
            amount: Money(15_000),
            method: Method::Pix,
            metadata: None,
            process: word == "pay",
        })),
        "process" => ask(What::Process {
            payment_id: id("payment"),
        }),
        "verify" => ask(What::Verify {
            payment_id: id("payment"),
        }),
        "webhook" => BillMessage::Notified {
            work_order_id,
            payment_id: id("payment"),
        },
        "charged" => outcome(Outcome::Charged { charge_id }),
        "declined" => outcome(Outcome::Rejected {
            charge_id: Some(charge_id),
            reason: "no money".into(),
        }),
        "in-process" => outcome(Outcome::InProcess {
            charge_id,
            status: "in_process".into(),
        }),
        "not-charged" => outcome(Outcome::NotCharged),
        "unknown" | "unknown-looking" => outcome(Outcome::Unknown {
            of: match word {
                "unknown" => super::super::intent::Action::Charge,
                _ => super::super::intent::Action::LookUp,
            },
            reason: "the gateway answered 500".into(),
            attempts: 4,
        }),
        "refunded" => outcome(Outcome::Refunded),
        "refund-failed" => outcome(Outcome::RefundFailed {
            reason: "the gateway answered 500".into(),
            attempts: 4,
        }),
        "due-week" => BillMessage::Due {
            work_order_id: work_order_id.to_string(),
            at: NOW + WEEK,
        },
        "due-look" => BillMessage::Due {
            work_order_id: work_order_id.to_string(),
            at: NOW + Duration::from_secs(60),
        },
        word => panic!("no message: {word}"),
    }
}

/// Says these words to a bill one after the other; where it stands then, and what the last one came to.
fn told(words: &str) -> String {
    let mut state = None;
    let mut last = String::new();
    for word in words.split(' ') {
        last = match Bill::decide(state.clone(), &message(word), NOW) {
            Ok(next) => {
                state = Some(next.state);
                let told = next.publish.iter().map(shown);
                told.collect::<Vec<_>>().join(" ")
            }
            Err(Refusal::Early { .. }) => "early".to_owned(),
            Err(Refusal::Stale { .. }) => "stale".to_owned(),
            Err(Refusal::Rejected { code, .. }) => code.to_owned(),
            Err(refusal) => panic!("{refusal}"),
        };
    }
    let Some(state) = state else {
        return format!("- : {last}");
    };
    let quotes = state.quotes.iter().map(|quote| quote.status.as_str());
    let payments = state.payments.iter().map(|payment| {
        let phase = (payment.status == PaymentStatus::Processing).then_some(payment.phase);
        let phase = phase.map(|phase| format!("{phase:?}"));
        let refund = payment.refund.as_ref();
        let refund = refund.map(|refund| format!("refund {:?}", refund.status));
        let all = [Some(payment.status.as_str().to_owned()), phase, refund];
        all.into_iter().flatten().collect::<Vec<_>>().join("/")
    });
    let ended = state.ended.as_ref().map(|_| "ended".to_owned());
    let all = quotes.map(str::to_owned).chain(payments).chain(ended);
    format!("{} : {last}", all.collect::<Vec<_>>().join(" "))
}

/// What goes out: an event's type and version, an intent's action, or a dead letter.
fn shown(publish: &Publish) -> String {
    let publication = &publish.publication;
    if let Ok(event) = event::decode(&publication.message.body) {
        return format!("{}#{}", event.event_type, event.aggregate.version);
    }
    let intent: super::super::intent::Intent =
        serde_json::from_slice(&publication.message.body).unwrap();
    let letter = if publication.routing_key.ends_with(".dlq") {
        "dead-letter:"
    } else {
        ""
    };
    format!("{letter}{:?}", intent.action)
}

fn check(table: &[(&str, &str)]) {
    for (words, expected) in table {
        assert_eq!(told(words), *expected, "{words}");
    }
}

#[test]
fn events_of_others() {
    check(&[
        // Nothing is known of the work order.
        ("created", "PENDING : quote.created#1"),
        ("created-unestimated", " : "),
        ("changed", "- : early"),
        ("agreed", "- : early"),
        ("broken", "- : early"),
        ("cancelled", "ended : "),
        // It ended before it began.
        ("cancelled created", "ended : "),
        ("cancelled agreed", "ended : early"),
        ("cancelled created agreed", "ended : stale"),
        ("cancelled cancelled", "ended : stale"),
        ("cancelled broken", "ended : early"),
        // It has no quote.
        ("created-unestimated created", " : stale"),
        ("created-unestimated agreed", " : early"),
        ("created-unestimated quote", "PENDING : quote.created#1"),
        // Its quote waits.
        ("created created", "PENDING : stale"),
        ("created changed", "PENDING : "),
        ("created changed-later changed", "PENDING : stale"),
        ("created agreed", "APPROVED : quote.approved#2"),
        ("created send agreed", "APPROVED : quote.approved#3"),
        ("created cancelled", "REJECTED ended : "),
        ("created broken", "REJECTED ended : "),
        // It is agreed, or not.
        ("created agreed agreed", "APPROVED : stale"),
        ("created approve agreed", "APPROVED : stale"),
        ("created reject agreed", "REJECTED : stale"),
        ("created approve cancelled", "APPROVED ended : "),
        // It is paid, or about to be.
        (
            "created approve pay-later cancelled",
            "APPROVED REJECTED ended : ",
        ),
        (
            "created approve pay cancelled",
            "APPROVED PROCESSING/Charging ended : ",
        ),
        (
            "created approve pay charged cancelled",
            "APPROVED APPROVED/refund Requested ended : Refund",
        ),
        (
            "created approve pay charged broken",
            "APPROVED APPROVED/refund Requested ended : Refund",
        ),
        (
            "created approve pay charged broken cancelled",
            "APPROVED APPROVED/refund Requested ended : ",
        ),
        (
            "created approve pay charged cancelled broken",
            "APPROVED APPROVED/refund Requested ended : stale",
        ),
        (
            "created approve pay charged cancelled refunded broken",
            "APPROVED REFUNDED/refund Done ended : stale",
        ),
    ]);
}

#[test]
fn requests() {
    check(&[
        ("quote", "- : not-found"),
        ("cancelled quote", "ended : not-found"),
        ("created quote", "REJECTED PENDING : quote.created#1"),
        ("created approve quote", "APPROVED : conflict"),
        ("created reject quote", "REJECTED : conflict"),
        ("created cancelled quote", "REJECTED ended : conflict"),
        ("created send", "SENT : quote.sent#2"),
        ("created send send", "SENT : conflict"),
        ("created approve", "APPROVED : quote.approved#2"),
        ("created approve approve", "APPROVED : conflict"),
        ("created approve send", "APPROVED : conflict"),
        ("created approve reject", "APPROVED : conflict"),
        ("created reject", "REJECTED : quote.rejected#2"),
        ("created reject approve", "REJECTED : conflict"),
        ("created quote approve", "REJECTED PENDING : conflict"),
        ("created cancelled approve", "REJECTED ended : conflict"),
        ("created pay", "PENDING : conflict"),
        (
            "created approve pay-later",
            "APPROVED PENDING : payment.created#1",
        ),
        (
            "created approve pay",
            "APPROVED PROCESSING/Charging : payment.created#1 Charge",
        ),
        (
            "created approve pay pay",
            "APPROVED PROCESSING/Charging : conflict",
        ),
        (
            "created approve pay charged pay",
            "APPROVED APPROVED : conflict",
        ),
        (
            "created approve pay declined pay",
            "APPROVED REJECTED PROCESSING/Charging : payment.created#1 Charge",
        ),
        ("created approve cancelled pay", "APPROVED ended : conflict"),
        (
            "created approve pay-later process",
            "APPROVED PROCESSING/Charging : Charge",
        ),
        (
            "created approve pay process",
            "APPROVED PROCESSING/Charging : conflict",
        ),
        ("created approve pay-later verify", "APPROVED PENDING : "),
        (
            "created approve pay verify",
            "APPROVED PROCESSING/Charging : LookUp",
        ),
        ("created approve pay charged verify", "APPROVED APPROVED : "),
    ]);
}

#[test]
fn outcomes() {
    check(&[
        (
            "created approve pay charged",
            "APPROVED APPROVED : payment.approved#2",
        ),
        (
            "created approve pay declined",
            "APPROVED REJECTED : payment.rejected#2",
        ),
        (
            "created approve pay in-process",
            "APPROVED PROCESSING/Waiting : ",
        ),
        (
            "created approve pay in-process charged",
            "APPROVED APPROVED : payment.approved#2",
        ),
        (
            "created approve pay in-process declined",
            "APPROVED REJECTED : payment.rejected#2",
        ),
        (
            "created approve pay in-process due-look",
            "APPROVED PROCESSING/Waiting : LookUp",
        ),
        (
            "created approve pay in-process webhook",
            "APPROVED PROCESSING/Waiting : LookUp",
        ),
        (
            "created approve pay in-process not-charged",
            "APPROVED PROCESSING/Waiting : ",
        ),
        // Nobody says what came of it: that is settled first.
        (
            "created approve pay not-charged",
            "APPROVED PROCESSING/Charging : ",
        ),
        (
            "created approve pay unknown-looking",
            "APPROVED PROCESSING/Charging : ",
        ),
        (
            "created approve pay unknown",
            "APPROVED PROCESSING/Settling : LookUp",
        ),
        (
            "created approve pay unknown unknown-looking",
            "APPROVED PROCESSING/Settling : ",
        ),
        (
            "created approve pay unknown unknown-looking due-look",
            "APPROVED PROCESSING/Settling : LookUp",
        ),
        (
            "created approve pay unknown charged",
            "APPROVED APPROVED : payment.approved#2",
        ),
        (
            "created approve pay unknown not-charged",
            "APPROVED REJECTED : payment.failed#2 dead-letter:LookUp",
        ),
        // Money that comes late goes back.
        (
            "created approve pay unknown not-charged webhook",
            "APPROVED REJECTED : LookUp",
        ),
        (
            "created approve pay unknown not-charged not-charged",
            "APPROVED REJECTED : stale",
        ),
        (
            "created approve pay unknown not-charged charged",
            "APPROVED REJECTED/refund Requested : Refund",
        ),
        (
            "created approve pay unknown not-charged charged charged",
            "APPROVED REJECTED/refund Requested : stale",
        ),
        (
            "created approve pay unknown not-charged charged refunded",
            "APPROVED REJECTED/refund Done : payment.refunded#3",
        ),
        (
            "created approve pay cancelled charged",
            "APPROVED APPROVED/refund Requested ended : Refund",
        ),
        (
            "created approve pay cancelled declined",
            "APPROVED REJECTED ended : payment.rejected#2",
        ),
        (
            "created approve pay cancelled unknown not-charged",
            "APPROVED REJECTED ended : payment.failed#2 dead-letter:LookUp",
        ),
        // Refunds, once.
        (
            "created approve pay charged charged",
            "APPROVED APPROVED : stale",
        ),
        (
            "created approve pay charged webhook",
            "APPROVED APPROVED : stale",
        ),
        (
            "created approve pay charged refunded",
            "APPROVED APPROVED : stale",
        ),
        (
            "created approve pay charged cancelled refunded",
            "APPROVED REFUNDED/refund Done ended : payment.refunded#3",
        ),
        (
            "created approve pay charged cancelled refunded refunded",
            "APPROVED REFUNDED/refund Done ended : stale",
        ),
        (
            "created approve pay charged cancelled refund-failed",
            "APPROVED APPROVED/refund Failed ended : payment.refund-failed#3 dead-letter:Refund",
        ),
        (
            "created approve pay charged cancelled refund-failed refund-failed",
            "APPROVED APPROVED/refund Failed ended : dead-letter:Refund",
        ),
        (
            "created approve pay charged cancelled refund-failed refunded",
            "APPROVED REFUNDED/refund Done ended : payment.refunded#4",
        ),
        (
            "created approve pay charged cancelled refunded refund-failed",
            "APPROVED REFUNDED/refund Done ended : stale",
        ),
        // Deadlines.
        ("created due-look", "PENDING : "),
        ("created due-week", "EXPIRED : quote.rejected#2"),
        ("created send due-week", "EXPIRED : quote.rejected#3"),
        ("created approve due-week", "APPROVED : "),
        (
            "created quote due-week",
            "REJECTED EXPIRED : quote.rejected#2",
        ),
    ]);
}

/// The deadline is moved when something else is due first, and not touched when it is the same.
#[test]
fn one_deadline_for_all() {
    let mut state = None;
    let mut deadlines = Vec::new();
    for word in [
        "created",
        "changed",
        "approve",
        "pay",
        "in-process",
        "charged",
    ] {
        let next = Bill::decide(state, &message(word), NOW).unwrap();
        state = Some(next.state);
        let at = next
            .deadlines
            .first()
            .map(|(_, at)| at.map(|at| at.ms_since(NOW)));
        deadlines.push(at);
    }
    let week_ms = 7 * 24 * 3600 * 1000;
    let expected = [
        Some(Some(week_ms)),
        None,
        Some(None),
        None,
        Some(Some(5000)),
        Some(None),
    ];
    assert_eq!(deadlines, expected);
}
