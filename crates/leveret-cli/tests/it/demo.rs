//! `leveret demo`, a process of its own.

use std::collections::BTreeMap;

use crate::support::leveret;

/// The orders by outcome, as the table tells them; `all` is the last row.
fn table(stdout: &str) -> BTreeMap<String, u64> {
    let rows = stdout.lines().take_while(|line| !line.is_empty());
    let cells = rows.filter_map(|row| row.trim_end().rsplit_once(' '));
    cells
        .filter_map(|(outcome, orders)| Some((outcome.trim().to_owned(), orders.parse().ok()?)))
        .collect()
}

/// Each order has an outcome, those that the seed decides are as it says, the service was paid once for each card, and the exit code says
/// that all is well.
#[test]
fn every_order_has_its_outcome_and_is_charged_once() {
    let ended = leveret(&["demo", "--orders", "40"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let orders = table(&ended.stdout);
    let of = |outcome: &str| orders.get(outcome).copied().unwrap_or(0);
    let decided = [
        "sent with an invoice",
        "card declined",
        "invalid order, rejected",
        "approved via the backup provider",
        "UNEXPECTED",
    ];
    assert_eq!(decided.map(of), [2, 2, 1, 1, 0], "{ended:?}");
    // On a machine under load more tries than those of the seed may time out.
    let approved = of("approved at the first try") + of("approved after retries");
    assert_eq!((approved, of("all")), (34, 40), "{ended:?}");
    let paid = "the payment service says: 35 charges, no order charged twice";
    assert!(ended.stdout.lines().any(|line| line == paid), "{ended:?}");
}

#[test]
fn the_report_is_json() {
    let ended = leveret(&["demo", "--orders", "5", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = ended.json();
    assert_eq!(
        (&report["ok"], &report["orders"]),
        (&true.into(), &5.into())
    );
    for none in ["charged_twice", "charged_wrongly", "unexpected"] {
        assert_eq!(report[none].as_array().map(Vec::len), Some(0), "{report}");
    }
}

#[test]
fn more_orders_than_there_are_are_refused() {
    let ended = leveret(&["demo", "--orders", "301"]);
    assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{ended:?}");
    assert!(
        ended.stderr.contains("there are only 300 orders"),
        "{ended:?}"
    );
}
