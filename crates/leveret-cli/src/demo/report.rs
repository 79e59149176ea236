//! What became of the orders, from the results of their runs and the ledger of the payment service. No I/O.

use std::collections::BTreeMap;

use leveret::{runtime::RunResult, store::RunStatus};
use serde::Serialize;
use serde_json::Value;

use crate::{commands::each::retries, output::percentile};

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Charged at the first try.
    Approved,
    /// Charged, after tries that failed or were answered too late.
    ApprovedAfterRetries,
    /// Charged by the backup provider, since the primary one was down.
    ViaBackupProvider,
    /// Goes out with an invoice.
    Invoice,
    /// The card was declined.
    Declined,
    /// Something is wrong with the order.
    Invalid,
    /// None of these: the run failed, or its output is strange.
    Unexpected,
}

impl Outcome {
    /// For people.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Outcome::Approved => "approved at the first try",
            Outcome::ApprovedAfterRetries => "approved after retries",
            Outcome::ViaBackupProvider => "approved via the backup provider",
            Outcome::Invoice => "sent with an invoice",
            Outcome::Declined => "card declined",
            Outcome::Invalid => "invalid order, rejected",
            Outcome::Unexpected => "UNEXPECTED",
        }
    }

    /// Reads the outcome off a run.
    pub(crate) fn of(result: &RunResult) -> Outcome {
        let (output, payment) = (
            &result.output.value()["result"],
            &result.output.value()["result"]["payment"],
        );
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let attempts = result.steps.get("charge").map_or(0, |step| step.attempts);
        if result.status != RunStatus::Completed {
            return Outcome::Unexpected;
        }
        match (
            &*text(&output["status"]),
            &*text(&payment["by"]),
            &*text(&payment["provider"]),
        ) {
            ("rejected", _, _) => Outcome::Invalid,
            ("declined", _, _) => Outcome::Declined,
            ("fulfilled", "invoice", _) => Outcome::Invoice,
            ("fulfilled", "card", "backup") => Outcome::ViaBackupProvider,
            ("fulfilled", "card", "primary") if attempts > 1 => Outcome::ApprovedAfterRetries,
            ("fulfilled", "card", "primary") => Outcome::Approved,
            _ => Outcome::Unexpected,
        }
    }

    fn is_charged(self) -> bool {
        matches!(
            self,
            Outcome::Approved | Outcome::ApprovedAfterRetries | Outcome::ViaBackupProvider
        )
    }
}

/// The demo's result, as `leveret demo --json` prints it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Every order ended as it should, and the ledger agrees.
    pub(crate) ok: bool,
    /// How many orders there were.
    pub(crate) orders: usize,
    /// How many ended how.
    pub(crate) outcomes: BTreeMap<Outcome, u64>,
    /// Attempts beyond the first.
    pub(crate) retries: u64,
    /// Charges in the ledger of the payment service.
    pub(crate) charges: usize,
    /// Orders with more than one charge.
    pub(crate) charged_twice: Vec<String>,
    /// Orders that were charged and should not have been, or the other way round.
    pub(crate) charged_wrongly: Vec<String>,
    /// From the first start to the last end.
    pub(crate) duration_ms: u64,
    /// Runs by this time.
    pub(crate) runs_per_s: f64,
    /// Half of the runs took no longer.
    pub(crate) p50_ms: u64,
    /// Of a hundred runs, 99 took no longer.
    pub(crate) p99_ms: u64,
    /// Where the API listens.
    pub(crate) api: String,
    /// Runs that did not end as they should, and why.
    pub(crate) unexpected: Vec<String>,
}

/// Gathers results.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    outcomes: BTreeMap<Outcome, u64>,
    charged_orders: Vec<String>,
    durations_ms: Vec<u64>,
    retries: u64,
    unexpected: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, line: usize, result: &RunResult) {
        let outcome = Outcome::of(result);
        *self.outcomes.entry(outcome).or_default() += 1;
        self.durations_ms.push(result.duration_ms);
        self.retries += retries(result);
        if outcome.is_charged() {
            self.charged_orders.push(
                result.output.value()["order_id"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
        if outcome == Outcome::Unexpected {
            let why = result
                .error
                .as_ref()
                .map_or_else(|| result.output.text().to_owned(), ToString::to_string);
            self.unexpected
                .push(format!("order in line {line}: {} ({why})", result.status));
        }
    }

    /// The report. `ledger` is what the payment service says of its charges.
    pub(crate) fn report(mut self, ledger: &Value, duration_ms: u64, api: String) -> Report {
        self.durations_ms.sort_unstable();
        let strings = |list: &Value, key: Option<&str>| -> Vec<String> {
            let items = list.as_array().into_iter().flatten();
            items
                .filter_map(|item| {
                    key.map_or(item, |key| &item[key])
                        .as_str()
                        .map(ToOwned::to_owned)
                })
                .collect()
        };
        let charged = strings(&ledger["charges"], Some("order_id"));
        let charged_twice = strings(&ledger["orders_charged_twice"], None);
        let charged_wrongly = differences(&charged, &self.charged_orders);
        let orders = self.durations_ms.len();
        Report {
            ok: self.unexpected.is_empty()
                && charged_twice.is_empty()
                && charged_wrongly.is_empty(),
            orders,
            outcomes: self.outcomes,
            retries: self.retries,
            charges: charged.len(),
            charged_twice,
            charged_wrongly,
            duration_ms,
            runs_per_s: (orders as f64 * 10_000.0 / duration_ms.max(1) as f64).round() / 10.0,
            p50_ms: percentile(&self.durations_ms, 0.5),
            p99_ms: percentile(&self.durations_ms, 0.99),
            api,
            unexpected: self.unexpected,
        }
    }
}

/// What is in one list and not in the other.
fn differences(a: &[String], b: &[String]) -> Vec<String> {
    let sorted = |list: &[String]| {
        list.iter()
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
    };
    sorted(a)
        .symmetric_difference(&sorted(b))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(status: &str, output: &Value, attempts: u32) -> RunResult {
        let step =
            json!({ "status": "completed", "output": null, "error": null, "attempts": attempts });
        let result = json!({
            "run_id": "r", "workflow_id": "w", "status": status, "output": output, "error": null, "duration_ms": 5,
            "steps": { "charge": step },
        });
        // By way of text: `Json` is read from text only.
        serde_json::from_str(&result.to_string()).unwrap()
    }

    fn fulfilled(order: &str, by: &str, provider: &str) -> Value {
        json!({ "order_id": order, "result": { "status": "fulfilled", "payment": { "by": by, "provider": provider } } })
    }

    #[test]
    fn outcomes_are_read_off_runs() {
        let check = |status: &str, output: &Value, attempts, expect| {
            assert_eq!(
                Outcome::of(&result(status, output, attempts)),
                expect,
                "{output}"
            );
        };
        check(
            "completed",
            &fulfilled("o", "card", "primary"),
            1,
            Outcome::Approved,
        );
        check(
            "completed",
            &fulfilled("o", "card", "primary"),
            2,
            Outcome::ApprovedAfterRetries,
        );
        check(
            "completed",
            &fulfilled("o", "card", "backup"),
            4,
            Outcome::ViaBackupProvider,
        );
        check(
            "completed",
            &fulfilled("o", "invoice", "none"),
            0,
            Outcome::Invoice,
        );
        check(
            "completed",
            &json!({ "result": { "status": "declined" } }),
            1,
            Outcome::Declined,
        );
        check(
            "completed",
            &json!({ "result": { "status": "rejected" } }),
            0,
            Outcome::Invalid,
        );
        check(
            "completed",
            &json!({ "result": {} }),
            1,
            Outcome::Unexpected,
        );
        check("failed", &Value::Null, 1, Outcome::Unexpected);
    }

    /// A charge too many, one that is missing and an order charged twice each make the report fail.
    #[test]
    fn the_ledger_is_compared() {
        let check = |ledger: Value, ok: bool, wrong: &[&str]| {
            let mut tally = Tally::default();
            tally.add(
                1,
                &result("completed", &fulfilled("a", "card", "primary"), 1),
            );
            let report = tally.report(&ledger, 1000, String::new());
            assert_eq!(
                (report.ok, report.charged_wrongly),
                (ok, wrong.iter().map(ToString::to_string).collect())
            );
        };
        check(
            json!({ "charges": [{ "order_id": "a" }], "orders_charged_twice": [] }),
            true,
            &[],
        );
        check(
            json!({ "charges": [], "orders_charged_twice": [] }),
            false,
            &["a"],
        );
        check(
            json!({ "charges": [{ "order_id": "a" }, { "order_id": "b" }], "orders_charged_twice": [] }),
            false,
            &["b"],
        );
        check(
            json!({ "charges": [{ "order_id": "a" }], "orders_charged_twice": ["a"] }),
            false,
            &[],
        );
    }
}
