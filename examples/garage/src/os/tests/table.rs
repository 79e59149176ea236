//! What each event does to a work order in each status.

use std::sync::Arc;

use leveret::{
    core::{json::Json, time::Timestamp},
    service::{Decider, Decision, Refusal, View, documents::Document},
};

use crate::{
    events::{
        ExecutionCompleted, ExecutionFailed, ExecutionStatusChanged, PaymentApproved,
        QuoteApproved, QuoteRejected,
    },
    ids::Id,
    money::Money,
    os::work_orders::{Fact, Message, Stored, WorkOrders, key},
    statuses::{ExecutionStatus, WORK_ORDER, WorkOrderStatus},
};

fn id(name: &str) -> Id {
    Id::derived(&[name])
}

fn stored(status: WorkOrderStatus) -> Stored {
    let order = serde_json::json!({
        "id": id("order"), "customerId": 1, "vehicleId": 1, "description": "It rattles", "status": status,
        "estimatedCost": "1.00", "customerApproval": false, "services": [], "parts": [],
        "estimatedCompletionDate": null, "completedAt": null, "quoteSentAt": null,
        "createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z",
    });
    let stored = serde_json::json!({
        "order": order, "history": [{ "status": status, "at": 0, "cause": "opened" }], "events": 1,
        "approved_quote": null, "paid_by": null, "payments": [], "executions": [],
    });
    serde_json::from_value(stored).unwrap()
}

fn decide(stored: &Stored, message: &Message) -> Result<Decision<Stored>, Refusal> {
    let document = Document {
        key: key(&stored.order.id),
        version: 1,
        state: Some(Json::from_serialize(stored).unwrap()),
        created_at: Timestamp(0),
        parked: Vec::new(),
    };
    WorkOrders.decide(&View::new(&[Arc::new(document)]), message, Timestamp(5))
}

fn heard(fact: Fact) -> Message {
    Message::heard_for_tests(id("order"), "an.event", 2, fact)
}

fn facts() -> Vec<(&'static str, Fact)> {
    let work_order_id = id("order");
    vec![
        ("quote.created", Fact::QuoteCreated),
        ("quote.sent", Fact::QuoteSent),
        (
            "quote.approved",
            Fact::QuoteApproved(QuoteApproved {
                quote_id: id("quote"),
                work_order_id: work_order_id.clone(),
                customer_id: 1,
                total_amount: Money(100),
            }),
        ),
        (
            "quote.rejected",
            Fact::QuoteRejected(QuoteRejected {
                quote_id: id("quote"),
                work_order_id: work_order_id.clone(),
                reason: None,
            }),
        ),
        (
            "payment.approved",
            Fact::PaymentApproved(PaymentApproved {
                payment_id: id("payment"),
                quote_id: id("quote"),
                work_order_id: work_order_id.clone(),
                amount: Money(100),
            }),
        ),
        (
            "payment.rejected",
            Fact::NotPaid {
                payment_id: id("payment"),
            },
        ),
        (
            "execution.status-changed",
            Fact::ExecutionMoved(ExecutionStatusChanged {
                execution_id: id("execution"),
                work_order_id: work_order_id.clone(),
                previous_status: ExecutionStatus::Queued,
                new_status: ExecutionStatus::Diagnosing,
            }),
        ),
        (
            "execution.completed",
            Fact::ExecutionCompleted(ExecutionCompleted {
                execution_id: id("execution"),
                work_order_id: work_order_id.clone(),
                parts_used: Vec::new(),
                services_performed: Vec::new(),
            }),
        ),
        (
            "execution.failed",
            Fact::ExecutionFailed(ExecutionFailed {
                execution_id: id("execution"),
                work_order_id,
                reason: "it is scrap".into(),
            }),
        ),
    ]
}

/// `.` nothing to do, `p` parked, `n` noted without another status, else the new status.
fn outcome(stored: &Stored, message: &Message) -> &'static str {
    match decide(stored, message) {
        Err(Refusal::Early { order, .. }) => {
            assert_eq!(order, 2);
            "p"
        }
        Err(Refusal::Stale { .. }) => ".",
        Err(other) => panic!("{other}"),
        Ok(decision) => {
            let (old, new) = (stored.order.status, decision.answer.order.status);
            if old == new {
                assert_eq!(decision.publish, []);
                return "n";
            }
            assert!(WORK_ORDER.allows(old, new), "{old:?} {new:?}");
            let cancelled = new == WorkOrderStatus::Cancelled;
            assert_eq!(decision.publish.len(), if cancelled { 2 } else { 1 });
            new.as_str()
        }
    }
}

#[test]
fn each_event_in_each_status() {
    const TABLE: &str = "
        STATUS          quote.created  quote.sent  quote.approved  quote.rejected  payment.approved  payment.rejected  execution.status-changed  execution.completed  execution.failed
        RECEIVED        p              n           p               CANCELLED       p                 n                 n                         p                    CANCELLED
        PENDING         QUOTE_SENT     n           APPROVED        CANCELLED       p                 n                 n                         p                    CANCELLED
        DIAGNOSIS       p              n           p               CANCELLED       p                 n                 n                         p                    CANCELLED
        AWAITING_QUOTE  QUOTE_SENT     n           p               CANCELLED       p                 n                 n                         p                    CANCELLED
        QUOTE_SENT      .              n           APPROVED        CANCELLED       p                 n                 n                         p                    CANCELLED
        APPROVED        .              n           n               CANCELLED       IN_PROGRESS       n                 n                         p                    CANCELLED
        IN_PROGRESS     .              n           n               CANCELLED       .                 n                 n                         COMPLETED            CANCELLED
        WAITING_PARTS   .              n           n               CANCELLED       .                 n                 n                         p                    CANCELLED
        COMPLETED       .              n           .               .               .                 n                 n                         .                    n
        DELIVERED       .              n           .               .               .                 n                 n                         .                    n
        CANCELLED       .              n           .               .               .                 n                 n                         .                    n
    ";
    let mut table: Vec<Vec<&str>> = Vec::new();
    let names = facts().into_iter().map(|(name, _)| name);
    table.push(std::iter::once("STATUS").chain(names).collect());
    for &status in WorkOrderStatus::ALL {
        let row = facts().into_iter().map(|(_, fact)| {
            let stored = stored(status);
            outcome(&stored, &heard(fact))
        });
        table.push(std::iter::once(status.as_str()).chain(row).collect());
    }
    let expected: Vec<Vec<&str>> = TABLE
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|words: &Vec<&str>| !words.is_empty())
        .collect();
    for (row, expected) in table.iter().zip(&expected) {
        assert_eq!(row, expected);
    }
    assert_eq!(table.len(), expected.len());
}

/// Nothing that comes again, with another id, does anything.
#[test]
fn each_event_once() {
    for &status in WorkOrderStatus::ALL {
        for (name, fact) in facts() {
            let message = heard(fact);
            let Ok(first) = decide(&stored(status), &message) else {
                continue;
            };
            let again = decide(&first.answer, &message);
            let is_stale = matches!(again, Err(Refusal::Stale { .. }));
            assert!(is_stale, "{name} in {status:?}: {again:?}");
        }
    }
}

/// Only the payment that has led to IN_PROGRESS leads back.
#[test]
fn a_payment_that_turns_out_to_be_none() {
    let mut paid = stored(WorkOrderStatus::InProgress);
    paid.paid_by = Some(id("other"));
    let not_paid = heard(Fact::NotPaid {
        payment_id: id("payment"),
    });
    assert_eq!(outcome(&paid, &not_paid), "n");
    paid.paid_by = Some(id("payment"));
    assert_eq!(outcome(&paid, &not_paid), "APPROVED");
    // Heard before the approval that it takes back, it is the newer one.
    let noted = decide(&stored(WorkOrderStatus::Approved), &not_paid);
    let (_, approved) = facts().swap_remove(4);
    let older = Message::heard_for_tests(id("order"), "an.event", 1, approved);
    assert_eq!(outcome(&noted.unwrap().answer, &older), ".");
}

#[test]
fn a_rejected_quote_beside_the_approved_one() {
    let mut approved = stored(WorkOrderStatus::Approved);
    approved.approved_quote = Some(id("other"));
    let (_, rejected) = facts().swap_remove(3);
    assert_eq!(outcome(&approved, &heard(rejected)), ".");
}
