//! Bounds on what expressions make of a step: each failure is the step's, is final, and names its bound.

use serde_json::{Value, json};

use crate::harness::{Harness, blueprint};

const TOO_LARGE: &str = "it makes more text than the 16777216 bytes allowed";
const TOO_MUCH: &str = "it takes more work than the 2000000 units allowed";

/// Runs `A>B` over a text of a megabyte, with the changes to the definition, and checks the one failure.
async fn check(change: impl FnOnce(&mut Value), error: &str, failed: &str) {
    let harness = Harness::start().await;
    let mut definition = blueprint("A>B; B = const 1; B.config = {\"maxRetries\": 3}");
    change(&mut definition);
    let summary = harness.run(definition, json!("x".repeat(1 << 20))).await;
    assert!(summary.contains(error), "{summary}");
    let failed = format!(" {failed}:failed");
    assert!(summary.contains(&failed), "{summary}");
    harness.stop().await;
}

#[tokio::test]
async fn parameters_share_one() {
    let params = json!({ "value": vec!["{{ input }}"; 3000] });
    check(|of| of["nodes"][1]["params"] = params, TOO_LARGE, "B").await;
    let params = json!({ "value": vec!["{{ input == run.input }}"; 3000] });
    check(|of| of["nodes"][1]["params"] = params, TOO_MUCH, "B").await;
}

#[tokio::test]
async fn inputs_share_one() {
    let named = |from: &str| -> Value {
        (0..3000)
            .map(|at| (format!("k{at}"), json!(from)))
            .collect()
    };
    for from in ["A", "{{ A }}"] {
        check(|of| of["nodes"][1]["inputs"] = named(from), TOO_LARGE, "B").await;
    }
}

#[tokio::test]
async fn transforms_have_one() {
    let transform = format!("[{}]", ["input"; 20].join(", "));
    check(
        |of| of["edges"][0]["transform"] = json!(transform),
        TOO_LARGE,
        "B",
    )
    .await;
}

/// No edge alone is too much.
#[tokio::test]
async fn conditions_share_one() {
    let edges = |of: &mut Value| {
        let edge =
            json!({ "source": "A", "target": "B", "condition": "input + input != run.input" });
        let edges = (0..40).map(|at| {
            let mut edge = edge.clone();
            edge["target"] = json!(format!("B{at}"));
            edge
        });
        of["edges"] = edges.collect();
        let node = |at| json!({ "id": format!("B{at}"), "uses": "echo" });
        of["nodes"] = std::iter::once(json!({ "id": "A", "uses": "echo" }))
            .chain((0..40).map(node))
            .collect();
    };
    check(edges, TOO_MUCH, "A").await;
}
