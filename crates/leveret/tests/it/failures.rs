//! Edges on failure on a real engine: what they hand over, what goes on behind them, and that the run goes on.

use serde_json::{Value, json};

use crate::harness::{Harness, blueprint};

/// One test a case: the blueprint, and what is seen of its run.
macro_rules! cases {
    ($($name:ident: $blueprint:expr => $expect:expr;)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let harness = Harness::start().await;
            let seen = harness.run(blueprint($blueprint), Value::Null).await;
            assert_eq!(seen, $expect);
            harness.stop().await;
        })+
    };
}

cases! {
    the_error_is_handed_over_and_the_run_goes_on:
        "A>B A>C!; A = fail boom"
        => r#"completed {"C":{"code":"node_failed","message":"boom","node_id":"A"}} | C | A:failed B:skipped"#;
    a_result_takes_the_other_edges:
        "A>B A>C!; A = const 3"
        => r#"completed {"B":3} | A B | C:skipped"#;
    what_has_no_other_edges_gives_the_output:
        "A>C!; A = const 3"
        => r#"completed {"A":3} | A | C:skipped"#;
    attempts_come_first:
        r#"A>C!~input.message~; A = fail boom; A.config = {"maxRetries":2,"retryDelay":10}"#
        => r#"completed {"C":"boom"} | C | A:failed*2"#;
    several_are_taken_at_once_and_a_join_gets_both:
        r#"S>A A>C!~input.node_id~ A>D!~input.code~ C>J D>J; A = fail boom; C = echo; D = echo; J.inputs = {"c":"C","d":"D"}"#
        => r#"completed {"J":{"c":"A","d":"node_failed"}} | C D J S | A:failed"#;
    a_join_behind_the_failure_goes_on:
        "S>A S>B A>J B>J A>C!; A = fail boom; J = count; B = const 1"
        => r#"completed {"C":{"code":"node_failed","message":"boom","node_id":"A"},"J":1} | B C J S | A:failed"#;
    a_fallback_comes_first:
        r#"A>B A>C!; A = fail boom; A.config = {"fallback":"F"}; F = const 8"#
        => r#"completed {"B":8} | B F | A:failed C:skipped"#;
    the_error_of_the_fallback_counts:
        r#"A>B A>C!; A = fail boom; A.config = {"fallback":"F"}; F = fail bang"#
        => r#"completed {"C":{"code":"node_failed","message":"bang","node_id":"F"}} | C | A:failed B:skipped F:failed"#;
    a_failure_behind_it_fails_the_run:
        "A>C!; A = fail boom; C = fail bang"
        => "failed bang | | A:failed C:failed";
    it_hands_on_what_inputs_name:
        r#"A>C!; A = fail boom; C.inputs = {"why":"{{ input.code }}","from":"{{ nodes.A.error.node_id }}"}"#
        => r#"completed {"C":{"from":"A","why":"node_failed"}} | C | A:failed"#;
    an_expression_that_fails_is_a_failure:
        r#"A>C!~input.code~; A = set; A.params = {"output":"{{ input.nothing.there }}"}"#
        => r#"completed {"C":"expression"} | C | A:failed"#;
    in_a_loop_the_pass_goes_on:
        r#"I>L L>B[continue] B>L B>H! H>L L>E[break]; L = loop-controller; L.params = {"condition":"input < 3"}; L.join = any; I = const 1; B = fail boom; H = set; H.params = {"output":"{{ nodes.L.output + 1 }}"}; E = echo"#
        => "completed 3 | E H/loop#1 H/loop#2 I L L/loop#1 L/loop#2 L/loop#3 | B/loop#1:failed B/loop#2:failed";
}

/// Nothing covers up a fatal failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fatal_failure_ends_it_all() {
    let harness = Harness::start().await;
    let mut definition = blueprint("A>B A>C!; A = error");
    definition["nodes"][0]["params"] = json!({ "message": "boom", "fatal": true });
    let seen = harness.run(definition, Value::Null).await;
    assert_eq!(seen, "failed boom | | A:failed B:cancelled C:cancelled");
    harness.stop().await;
}
