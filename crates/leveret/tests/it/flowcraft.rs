//! flowcraft's conformance cases, by their target: each blueprint runs on a real engine (SQLite file, embedded broker), and what it did is compared
//! with what it should do.
//!
//! A blueprint is written short: `S>A S>B A>J[x]{condition}~transform~`, nodes below it as `A = type {params}`.

use std::{collections::HashMap, sync::Arc};

use leveret::{
    core::{json::Json, parse::workflow_from_json},
    nodes::NodeContext,
    runtime::{EngineParts, Roles, RunChanged, StartRequest},
    store::StepStatus,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::{Harness, blueprint, in_memory, registry, serving, summary};

/// Runs a blueprint and returns `status; output; ran nodes in order; other nodes`, or the error.
async fn run(text: &str) -> String {
    run_with(text, Value::Null).await
}

async fn run_with(text: &str, input: Value) -> String {
    let harness = Harness::start().await;
    let seen = harness.run(blueprint(text), input).await;
    harness.stop().await;
    seen
}

/// One test a case: the blueprint, and what is seen of its run.
macro_rules! cases {
    ($($name:ident: $blueprint:expr $(, input $input:expr)? => $expect:expr;)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            #[allow(unused_mut, unused_assignments)]
            let mut input = Value::Null;
            $(input = $input;)?
            assert_eq!(run_with($blueprint, input).await, $expect);
        })+
    };
}

cases! {
    case_01_a_chain_hands_outputs_on:
        "A>B B>C; A = const 7; B = echo; C = double"
        => "completed 14 | A B C |";
    case_02_a_single_node:
        "A; A = const 7"
        => "completed 7 | A |";
    case_04_a_join_with_inputs_gets_both:
        "S>A S>B A>J B>J; A = const 1; B = const 2; J = echo; J.inputs = {\"a\":\"A\",\"b\":\"B\"}"
        => r#"completed {"a":1,"b":2} | A B J S |"#;
    case_05_a_long_and_a_short_way:
        "A>B B>C A>C; A = const 1; C = count"
        => "completed 1 | A B C |";
    case_06_two_disjoint_chains:
        "A>B C>D; B = const 1; D = const 2"
        => r#"completed {"B":1,"D":2} | A B C D |"#;
    case_07_an_action_takes_its_edge_only:
        "A>B[x] A>C[y]; A = act x"
        => r#"completed {"B":"x"} | A B | C:skipped"#;
    case_08_a_matching_action_suppresses_default_edges:
        "A>B[x] A>D; A = act x"
        => r#"completed {"B":"x"} | A B | D:skipped"#;
    case_09_an_unmatched_action_takes_default_edges:
        "A>B[x] A>D; A = act zzz"
        => r#"completed {"D":"zzz"} | A D | B:skipped"#;
    case_10_an_unmatched_action_without_default_takes_none:
        "A>B[x]; A = act zzz"
        => "completed null | A | B:skipped";
    case_11_a_false_condition_on_the_action_edge_leaves_the_default:
        "A>B[x]{false} A>D; A = act x"
        => r#"completed {"D":"x"} | A D | B:skipped"#;
    case_12_conditions_compare:
        "A>B{result.output > 3} A>C{result.output <= 3}; A = const 5"
        => r#"completed {"B":5} | A B | C:skipped"#;
    case_14_a_condition_on_a_member:
        r#"A>B{result.output.ok}; A = const {"ok":true}"#
        => r#"completed {"ok":true} | A B |"#;
    case_15_conditional_and_unconditional_edges_are_both_taken:
        "A>B{result.output == 5} A>C; A = const 5"
        => r#"completed {"B":5,"C":5} | A B C |"#;
    case_16_a_false_condition_only:
        "A>B{result.output == 2}; A = const 1"
        => "completed null | A | B:skipped";
    case_17_a_condition_on_a_context_key:
        "A>B{context.flag == 'on'} A>C{context.flag == 'off'}; A = context"
        => r#"completed {"B":1} | A B | C:skipped"#;
    case_18_a_condition_on_a_nodes_alias:
        r#"A>B{A.ok}; A = const {"ok":true}"#
        => r#"completed {"ok":true} | A B |"#;
    case_19_a_transform_makes_the_input:
        "A>B~input * 2~; A = const 10"
        => "completed 20 | A B |";
    case_19_the_last_of_parallel_transforms_wins:
        "A>B~10~ A>B~20~ A>C~10~ A>C~20~; C.join = any"
        => r#"completed {"B":20,"C":20} | A B C |"#;
    case_20_a_transform_sees_what_inputs_names:
        r#"S>M M>E~input.deeply.nested.value~; S = const {"deeply":{"nested":{"value":42}}}; M = const 0; E = echo; E.inputs = "S""#
        => "completed 42 | E M S |";
    case_21_a_transform_wins_over_inputs_every_time:
        r#"A>T~input.x~; A = const {"x":1}; T = echo; T.inputs = "A""#
        => "completed 1 | A T |";
    case_22_a_transform_that_gives_nothing:
        r#"A>B~has(input.y) ? input.y : null~; A = const {"x":1}"#
        => "completed null | A B |";
    case_23a_inputs_name_an_output_verbatim:
        r#"A>B B>C; A = const 3; B = const 4; C.inputs = "_outputs.A""#
        => "completed 3 | A B C |";
    case_23b_inputs_name_a_part_of_an_output:
        r#"A>B; A = const {"p":{"q":9}}; B.inputs = "A.p.q""#
        => "completed 9 | A B |";
    case_23c_inputs_name_a_key_of_the_initial_context:
        r#"A; A = echo; A.inputs = "ctxKey""#, input json!({"ctxKey": "here"})
        => r#"completed "here" | A |"#;
    case_23d_inputs_name_a_context_key_verbatim:
        r#"A; A = echo; A.inputs = "_key""#, input json!({"_key": "here", "key": "there"})
        => r#"completed "here" | A |"#;
    case_23e_inputs_name_what_was_handed_over:
        r#"A>B~input + 1~ B>C; A = const 3; B = const 0; C.inputs = {"b":"_inputs.B","a":"_inputs.A","c":"_inputs.C","none":"_inputs.D"}"#,
        input json!(5)
        => r#"completed {"a":5,"b":4,"c":0,"none":null} | A B C |"#;
    case_23f_what_was_handed_over_to_a_join_came_last:
        r#"S>A S>B A>J B>J J>K; A = const 1; B = sleep; B.params = {"duration":30}; K.inputs = "_inputs.J"; J = const 0"#
        => "completed null | A B J K S |";
    case_23g_an_output_hides_a_context_key_and_a_skipped_node_does_not:
        r#"A>B[x] A>C[y] B>D C>D; A = act x; D.inputs = {"b":"B","c":"C","verbatim":"_outputs.C"}"#,
        input json!({"B": "hidden", "C": "seen"})
        => r#"completed {"b":"x","c":"seen","verbatim":null} | A B D | C:skipped"#;
    case_24_inputs_that_name_nothing_are_null:
        r#"A; A = echo; A.inputs = "nowhere""#
        => "completed null | A |";
    case_25_a_diamond_with_one_side_skipped_still_joins:
        "A>B[x] A>C[y] B>D C>D; A = act x; D = count"
        => "completed 1 | A B D | C:skipped";
    case_26_the_same_with_an_any_join:
        "A>B[x] A>C[y] B>D C>D; A = act x; D = count; D.join = any"
        => "completed 1 | A B D | C:skipped";
    case_27_an_any_join_of_three_runs_once:
        "S>A S>B S>C A>J B>J C>J; J = count; J.join = any"
        => "completed 1 | A B C J S |";
    case_28_an_any_join_behind_unequal_branches_runs_once:
        "S>A A>J S>B B>B2 B2>J J>K; J = count; J.join = any; K = count"
        => "completed 1 | A B B2 J K S |";
    case_29_parallel_edges_are_one_way:
        "A>B[x] A>B[y]; A = act x; B = count"
        => "completed 1 | A B |";
    case_30_attempts_are_bounded:
        "A>C; A = fail boom; A.config = {\"maxRetries\":3,\"retryDelay\":0}"
        => "failed boom | | A:failed*3 C:cancelled";
    case_31_a_later_attempt_succeeds:
        "A; A = flaky 2; A.config = {\"maxRetries\":3,\"retryDelay\":0}"
        => "completed 3 | A*3 |";
    case_33_a_timeout_fails_and_is_retried:
        "A; A = hang; A.config = {\"maxRetries\":2,\"retryDelay\":0,\"timeout\":20}"
        => "failed node 'A' took longer than its timeout of 20ms | | A:failed*2";
    case_34_other_branches_go_on_and_the_first_cause_is_kept:
        "S>A S>B B>B2 A>J B2>J; A = fail boom"
        => "failed boom | B B2 S | A:failed J:cancelled";
    case_35_an_any_join_runs_but_failed_is_final:
        "S>A S>B A>J B>J; A = fail boom; J.join = any"
        => "failed boom | B J S | A:failed";
    case_36_a_fallback_takes_the_place_of_what_failed:
        "A>C; A = fail boom; A.config = {\"fallback\":\"F\"}; F = const 8; C = echo"
        => "completed 8 | C F | A:failed";
    case_37_a_fallback_with_its_own_edge_to_the_same_successor:
        "A>C F>C; A = fail boom; A.config = {\"fallback\":\"F\"}; F = const 8; C = count"
        => "completed 1 | C F | A:failed";
    case_38_an_unused_fallback_is_skipped:
        "A>C; A = const 1; A.config = {\"fallback\":\"F\"}; F = const 8; C = echo"
        => "completed 1 | A C | F:skipped";
    case_39_a_failing_fallback_fails_the_run:
        "A>C; A = fail boom; A.config = {\"fallback\":\"F\"}; F = fail bang"
        => "failed bang | | A:failed C:cancelled F:failed";
    case_41_a_fatal_error_is_neither_retried_nor_covered_up:
        "A>C; A = fatal boom; A.config = {\"fallback\":\"F\",\"maxRetries\":3}; F = const 8"
        => "failed boom | | A:failed C:cancelled F:skipped";
    case_42_a_fallback_masks_no_other_failure:
        "A; X; A = fail boom; A.config = {\"fallback\":\"F\"}; F = const 8; X = fail unrelated"
        => "failed unrelated | F | A:failed X:failed";
    case_66_no_output_is_handed_on:
        "A>B; A = nothing; B = count"
        => "completed 1 | A B |";
    case_66_no_output_at_the_end_is_null:
        "A; A = nothing"
        => "completed null | A |";
    case_67_null_is_an_output:
        "A; A = const null"
        => "completed null | A |";
    case_67_null_is_stored:
        r#"A>B B>C; A = const null; B = count; C.inputs = "A""#, input json!({"A": "hidden"})
        => "completed null | A B C |";
    case_69_an_unknown_node_type_fails_its_step:
        "A; A = no-such-type"
        => "failed Implementation for 'no-such-type' not found. | | A:failed";
    case_82_an_empty_blueprint_completes:
        ""
        => "completed null | |";
}

/// Three predecessors with outputs of their own, one let go after the other: whichever is the last, its output is the input.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_03_a_join_without_inputs_gets_the_output_of_the_last_to_arrive() {
    for order in [["A", "B", "C"], ["B", "C", "A"], ["C", "A", "B"]] {
        let gates: Arc<HashMap<&str, Semaphore>> =
            Arc::new(order.map(|node| (node, Semaphore::new(0))).into());
        let mut registry = registry();
        let held = gates.clone();
        registry.register_fn("held", move |ctx: NodeContext| {
            let gates = held.clone();
            async move {
                let node = ctx.key.node_id.as_str();
                gates[node].acquire().await.expect("not closed").forget();
                Ok(json!(node))
            }
        });
        let harness = Harness::with(registry).await;
        let mut changes = harness.engine.changes();
        let open = async {
            for node in order {
                gates[node].add_permits(1);
                let is_recorded = |change: &RunChanged| {
                    change
                        .node_id
                        .as_ref()
                        .is_some_and(|id| id.as_str() == node)
                        && change.status == Some(StepStatus::Completed)
                };
                while !is_recorded(&changes.recv().await.expect("it lives")) {}
            }
        };
        let definition = blueprint("A>D B>D C>D; A = held; B = held; C = held; D = echo");
        let (seen, ()) = tokio::join!(harness.run(definition, Value::Null), open);
        assert_eq!(seen, format!("completed \"{}\" | A B C D |", order[2]));
        harness.stop().await;
    }
}

#[tokio::test]
async fn case_13_an_expression_that_cannot_be_evaluated_is_refused_at_load() {
    for expression in ["total > 3", "result.output >", "result.output ==== 3"] {
        let error = Harness::load_error(&blueprint(&format!("A>B{{{expression}}}")));
        assert!(error.contains("edges[0].condition"), "{error}");
    }
}

#[tokio::test]
async fn case_40_a_missing_fallback_is_refused_at_load_by_name() {
    let error = Harness::load_error(&blueprint(
        "A>C; A = fail boom; A.config = {\"fallback\":\"nowhere\"}",
    ));
    assert!(error.contains("nowhere"), "{error}");
}

/// Delays between attempts are honoured: the second attempt comes when its timer is due, not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_32_delays_between_attempts_are_honoured() {
    let begun = std::time::Instant::now();
    let seen = run("A; A = flaky 2; A.config = {\"maxRetries\":3,\"retryDelay\":100,\"retryFactor\":1,\"retryJitter\":0}").await;
    assert_eq!(seen, "completed 3 | A*3 |");
    assert!(begun.elapsed().as_millis() >= 200, "{:?}", begun.elapsed());
}

/// The result does not depend on which worker processed the predecessor: two of them drive many runs, a step each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_21_a_transform_wins_over_inputs_on_any_worker() {
    let parts = in_memory();
    let (store, broker) = (parts.store.clone(), parts.broker.clone());
    let other = EngineParts {
        store,
        broker,
        ..in_memory()
    };
    let engines = [
        serving(parts, Roles::all()).await,
        serving(other, Roles::all()).await,
    ];
    let definition = blueprint(
        r#"A>T~input.x~ A>U~input.x~ T>J U>J; A = const {"x":1}; T.inputs = "A"; U.inputs = "A"; J.inputs = {"t":"T","u":"U"}"#,
    );
    let workflow = Arc::new(workflow_from_json(&definition, None).expect("valid"));
    let mut runs = Vec::new();
    for at in 0..40 {
        let request = StartRequest {
            workflow: workflow.clone(),
            input: Json::null(),
            run_id: None,
        };
        let (run_id, _) = engines[at % 2].start(request).await.expect("starts");
        runs.push(run_id);
    }
    for run_id in runs {
        let result = engines[0].wait(&run_id).await.expect("the store answers");
        let result = result.expect("the run is recorded");
        assert_eq!(summary(&result), r#"completed {"t":1,"u":1} | A J T U |"#);
    }
    for engine in engines {
        assert!(engine.metrics().consumed.get() > 0, "one worker did it all");
    }
}
