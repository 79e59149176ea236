//! Node types: one attempt of a built-in one, as the engine asks for it, and functions as node types.

mod datetime;
mod http;
mod lists;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use leveret::{
    core::{
        ids::{NodeId, RunId, Scope, StepKey, WorkflowId},
        json::Json,
        parse::NodeCatalog,
        time::Timestamp,
    },
    nodes::{NodeContext, NodeError, NodeOutput, Registry, Verdict},
    runtime::Engine,
};
use serde_json::{Value, json};

use crate::harness::{Harness, blueprint, registry};

/// The first attempt of step `a` of run `r` begins, with the input `{"from": "before"}`.
fn context(params: Value) -> NodeContext {
    NodeContext {
        workflow_id: WorkflowId::new("w").expect("an id"),
        key: StepKey {
            run_id: RunId::new("r").expect("an id"),
            node_id: NodeId::new("a").expect("an id"),
            scope: Scope::root(),
        },
        attempt: 1,
        now: Timestamp(1_000),
        woken: false,
        signal: None,
        input: Json::from(json!({ "from": "before" })),
        params: Arc::new(params),
        each: None,
    }
}

/// One attempt of a built-in node type.
async fn attempt(uses: &str, context: NodeContext) -> Result<Verdict, NodeError> {
    let registry = Registry::builtin();
    let node_type = registry.get(uses).expect("it is built in");
    node_type.execute(context).await
}

/// What an attempt gave.
async fn output(uses: &str, params: Value) -> NodeOutput {
    match attempt(uses, context(params)).await {
        Ok(Verdict::Done(output)) => output,
        other => panic!("{other:?}"),
    }
}

/// Why an attempt failed, and whether another may succeed.
async fn failure(uses: &str, params: Value) -> (String, bool) {
    match attempt(uses, context(params)).await {
        Err(error) => (error.message().to_owned(), error.is_retryable()),
        Ok(verdict) => panic!("{verdict:?}"),
    }
}

/// What is said of parameters when their workflow is loaded; empty if nothing is.
fn complaint(uses: &str, params: &Value) -> String {
    let problems = Registry::builtin().check_params(uses, params);
    let messages = problems.into_iter().map(|problem| problem.message);
    messages.collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn set_gives_what_it_is_told_and_an_action() {
    let given = output("set", json!({ "output": { "n": 1 }, "action": "express" })).await;
    assert_eq!(given.output, Json::from(json!({ "n": 1 })));
    assert_eq!(given.action.as_deref(), Some("express"));
    // An expression may come to nothing: then there is no action. Without an output, the input goes on.
    for action in [json!(null), json!("")] {
        let given = output("set", json!({ "action": action })).await;
        assert_eq!(given.output, Json::from(json!({ "from": "before" })));
        assert_eq!(given.action, None);
    }
    let (message, retryable) = failure("set", json!({ "action": 7 })).await;
    assert_eq!(message, "parameter 'action' must be text, not 7");
    assert!(!retryable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_action_of_set_takes_its_edge() {
    let definition = blueprint(
        r#"A>B[express] A>C; A = set; A.params = {"output":1,"action":"{{ run.input.way }}"}"#,
    );
    let harness = Harness::start().await;
    for (way, expect) in [
        ("express", r#"completed {"B":1} | A B | C:skipped"#),
        ("", r#"completed {"C":1} | A C | B:skipped"#),
    ] {
        let seen = harness.run(definition.clone(), json!({ "way": way })).await;
        assert_eq!(seen, expect);
    }
    harness.stop().await;
}

/// In order, and no further than the case that holds: what would fail behind it is not evaluated, nor is a default that nothing needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switch_looks_no_further_than_the_case_that_holds() {
    let case = |when: &str, action: &str| json!({ "when": when, "action": action });
    let no_text = "{{ run.input.none.size() > 3 }}";
    let harness = Harness::start().await;
    for (cases, default, expect) in [
        (
            json!([case("{{ run.input.n > 1 }}", "b"), case(no_text, "c")]),
            json!("{{ run.input.none }}"),
            r#"completed {"B":{"n":2}} | A B | C:skipped"#,
        ),
        (
            json!([
                case("{{ run.input.n > 2 }}", "{{ run.input.none }}"),
                case("{{ run.input.n == 2 }}", "{{ 'b' }}")
            ]),
            json!(null),
            r#"completed {"B":{"n":2}} | A B | C:skipped"#,
        ),
        (
            json!([case("{{ false }}", "b"), { "when": false, "action": "b" }]),
            json!("{{ 'c' }}"),
            r#"completed {"C":{"n":2}} | A C | B:skipped"#,
        ),
        (
            json!([case(no_text, "b"), { "when": true, "action": "c" }]),
            json!("b"),
            "failed expression `run.input.none.size() > 3`: in `run.input.none`: there is no field `none` | | A:failed B:cancelled C:cancelled",
        ),
        (
            json!([case("{{ run.input.n }}", "b")]),
            json!("c"),
            "failed the condition of case 'b' is 2, not true or false | | A:failed B:cancelled C:cancelled",
        ),
    ] {
        let mut definition = blueprint("A>B[b] A>C[c]; A = switch");
        definition["nodes"][0]["params"] = json!({ "cases": cases, "default": default });
        let seen = harness.run(definition, json!({ "n": 2 })).await;
        assert_eq!(seen, expect);
    }
    harness.stop().await;
}

#[tokio::test]
async fn sleep_waits_for_its_duration_from_now() {
    for (duration, ms) in [
        (json!(1), 1),
        (json!("250ms"), 250),
        (json!("2d"), 2 * 86_400_000),
        // A hundred years.
        (json!("36600d"), 36_600 * 86_400_000),
    ] {
        let verdict = attempt("sleep", context(json!({ "duration": duration }))).await;
        let expect = Timestamp(1_000) + Duration::from_millis(ms);
        match verdict {
            Ok(Verdict::WaitUntil(until)) => assert_eq!(until, expect, "{duration}"),
            other => panic!("{duration}: {other:?}"),
        }
    }
}

/// With the input as output, after no time and after the sleep.
#[tokio::test]
async fn sleep_ends() {
    let input = Json::from(json!({ "from": "before" }));
    assert_eq!(
        output("sleep", json!({ "duration": 0 })).await.output,
        input
    );
    let woken = NodeContext {
        woken: true,
        ..context(json!({ "duration": "1h" }))
    };
    match attempt("sleep", woken).await {
        Ok(Verdict::Done(done)) => assert_eq!(done.output, input),
        other => panic!("{other:?}"),
    }
}

/// Told when the workflow is loaded, and by the step if an expression came to it.
#[tokio::test]
async fn sleep_has_limits() {
    for (params, message) in [
        (json!({}), "parameter 'duration' is missing"),
        (
            json!({ "duration": -1 }),
            "-1 is no duration in whole milliseconds",
        ),
        (
            json!({ "duration": 1.5 }),
            "1.5 is no duration in whole milliseconds",
        ),
        (
            json!({ "duration": "soon" }),
            "'soon' is no duration: say '250ms', '10s', '5m', '1h' or '2d'",
        ),
        (
            json!({ "duration": null }),
            "null is no duration: say milliseconds or '10s'",
        ),
        (
            json!({ "duration": "36601d" }),
            "\"36601d\" is longer than a hundred years",
        ),
        (
            json!({ "duration": u64::MAX }),
            "18446744073709551615 is longer than a hundred years",
        ),
    ] {
        assert_eq!(complaint("sleep", &params), message);
        assert_eq!(failure("sleep", params).await, (message.to_owned(), false));
    }
    assert_eq!(
        complaint("sleep", &json!({ "duration": "{{ input.ms }}" })),
        ""
    );
    assert_eq!(
        complaint("sleep", &json!({ "duration": 1, "until": "noon" })),
        "unknown parameter 'until'; known: duration"
    );
}

/// A step of a function sees whether the step before it is recorded already: it is not where both are pure, since they share one commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pure_functions_share_a_commit() {
    let the_engine: Arc<OnceLock<Engine>> = Arc::default();
    let look = {
        let the_engine = the_engine.clone();
        move |ctx: NodeContext| {
            let engine = the_engine.get().expect("the engine is there").clone();
            async move {
                let result = engine.result(&ctx.key.run_id).await;
                let result = result.map_err(|error| NodeError::permanent(error.to_string()))?;
                let recorded = result.is_some_and(|result| result.steps.contains_key("A"));
                Ok(json!(recorded))
            }
        }
    };
    let mut registry = registry();
    registry.register_pure_fn("pure", look.clone());
    registry.register_fn("effect", look);
    assert!(registry.get("pure").expect("it is registered").is_pure());
    assert!(!registry.get("effect").expect("it is registered").is_pure());
    let harness = Harness::with(registry).await;
    the_engine.set(harness.engine.clone()).expect("set once");
    for (uses, recorded) in [("pure", false), ("effect", true)] {
        let definition = blueprint(&format!("A>B; A = {uses}; B = {uses}"));
        let seen = harness.run(definition, Value::Null).await;
        assert_eq!(seen, format!("completed {recorded} | A B |"), "{uses}");
    }
    harness.stop().await;
}
