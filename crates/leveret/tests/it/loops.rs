//! Loops on a real engine: conditions, passes, what names mean in them and behind them, and how they end.

use serde_json::{Value, json};

use crate::harness::{Harness, blueprint};

/// Runs a blueprint on a real engine and returns what is seen of it.
async fn run(text: &str, input: Value) -> String {
    let harness = Harness::start().await;
    let seen = harness.run(blueprint(text), input).await;
    harness.stop().await;
    seen
}

macro_rules! cases {
    ($($name:ident: $blueprint:expr, input $input:expr => $expect:expr;)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            assert_eq!(run($blueprint, $input).await, $expect);
        })+
    };
}

cases! {
    case_43_a_loop_runs_while_its_condition_holds:
        r#"I>L L>B[continue] B>L L>E[break]; L = loop-controller; L.params = {"condition":"input < 3"}; B = set; B.params = {"output":"{{ input + 1 }}"}; E = count"#,
        input json!(0)
        => "completed 1 | B/loop#1 B/loop#2 B/loop#3 E I L L/loop#1 L/loop#2 L/loop#3 L/loop#4 |";
    case_44_a_body_of_three_nodes_runs_in_order:
        r#"I>L L>A[continue] A>B B>C C>L L>E[break]; L = loop-controller; L.params = {"condition":"size(input) < 6"}; A = set; A.params = {"output":"{{ input + 'a' }}"}; B = set; B.params = {"output":"{{ input + 'b' }}"}; C = set; C.params = {"output":"{{ input + 'c' }}"}"#,
        input json!("")
        => r#"completed "abcabc" | A/loop#1 A/loop#2 B/loop#1 B/loop#2 C/loop#1 C/loop#2 E I L L/loop#1 L/loop#2 L/loop#3 |"#;
    case_45_no_pass_if_the_condition_is_false_at_entry:
        r#"I>L L>B[continue] B>L L>E[break]; L = loop-controller; L.params = {"condition":"false"}"#,
        input json!(7)
        => "completed 7 | E I L L/loop#1 |";
    case_46_a_conditional_edge_of_the_controller_comes_first:
        r#"I>L L>B[continue] B>L L>S{result.output==5} L>E[break]; L = loop-controller; L.params = {"condition":"input < 9"}; B = set; B.params = {"output":"{{ input + 1 }}"}"#,
        input json!(3)
        => r#"completed {"S":5} | B/loop#1 B/loop#2 I L L/loop#1 L/loop#2 L/loop#3 S | E:skipped"#;
    case_47_passes_are_bounded:
        r#"L>B[continue] B>L L>E[break]; L = loop-controller; L.params = {"condition":"true","max_iterations":2}"#,
        input json!(1)
        => "failed the loop has had 2 passes, which is its max_iterations | B/loop#1 B/loop#2 L/loop#1 L/loop#2 | E:cancelled L:failed L/loop#3:failed";
    a_condition_that_is_no_truth_value_fails:
        r#"L>B[continue] B>L; L = loop-controller; L.params = {"condition":"1"}"#,
        input json!(1)
        => "failed the condition of the loop is 1, not true or false | | L:failed L/loop#1:failed";
    a_loop_without_a_break_edge_gives_its_output:
        r#"L>B[continue] B>L; L = loop-controller; L.params = {"condition":"input < 3"}; B = set; B.params = {"output":"{{ input + 1 }}"}"#,
        input json!(1)
        => "completed 3 | B/loop#1 B/loop#2 L L/loop#1 L/loop#2 L/loop#3 |";
    names_mean_this_pass_or_the_latest:
        r#"L>B[continue] B>C C>L L>E[break]; L = loop-controller; L.params = {"condition":"!has(nodes.C.output) || nodes.C.output.n < 3"}; B = set; B.params = {"output":"{{ has(nodes.C.output) ? nodes.C.output.n + 1 : 1 }}"}; C = set; C.params = {"output":{"n":"{{ nodes.B.output }}","l":"{{ nodes.L.output }}"}}; E = set; E.params = {"output":["{{ nodes.B.output }}","{{ nodes.C.output }}","{{ nodes.L.output }}"]}"#,
        input json!("in")
        => r#"completed [3,{"l":{"l":{"l":"in","n":1},"n":2},"n":3},{"l":{"l":{"l":"in","n":1},"n":2},"n":3}] | B/loop#1 B/loop#2 B/loop#3 C/loop#1 C/loop#2 C/loop#3 E L L/loop#1 L/loop#2 L/loop#3 L/loop#4 |"#;
    a_node_that_this_pass_skips_means_the_latest:
        r#"L>B[continue] B>C{result.output==1} B>L C>L L>E[break]; L = loop-controller; L.params = {"condition":"input < 3"}; B = set; B.params = {"output":"{{ input + 1 }}"}; E = set; E.params = {"output":"{{ nodes.C.output }}"}; L.join = any"#,
        input json!(0)
        => "completed 1 | B/loop#1 B/loop#2 B/loop#3 C/loop#1 E L L/loop#1 L/loop#2 L/loop#3 L/loop#4 | C/loop#2:skipped C/loop#3:skipped";
    a_pass_joins_its_branches_and_waits_for_its_dead_ends:
        r#"L>A[continue] L>B[continue] A>J B>J B>D J>L L>E[break]; L = loop-controller; L.params = {"condition":"input < 4"}; A = set; A.params = {"output":"{{ input + 1 }}"}; B = sleep; B.params = {"duration":20}; J = set; J.params = {"output":"{{ nodes.A.output }}"}; D = count; E = echo"#,
        input json!(2)
        => "completed 4 | A/loop#1 A/loop#2 B/loop#1 B/loop#2 D/loop#1 D/loop#2 E J/loop#1 J/loop#2 L L/loop#1 L/loop#2 L/loop#3 |";
    loops_are_nested:
        r#"I>L L>M[continue] M>B[continue] B>M M>N[break] N>L L>E[break]; L = loop-controller; L.params = {"condition":"input < 40"}; M = loop-controller; M.params = {"condition":"input % 10 < 2"}; B = set; B.params = {"output":"{{ input + 1 }}"}; N = set; N.params = {"output":"{{ input + 18 }}"}; E = set; E.params = {"output":["{{ nodes.B.output }}","{{ nodes.N.output }}"]}"#,
        input json!(0)
        => "completed [22,40] | B/loop#1/loop#1 B/loop#1/loop#2 B/loop#2/loop#1 B/loop#2/loop#2 E I L L/loop#1 L/loop#2 L/loop#3 M/loop#1 M/loop#1/loop#1 M/loop#1/loop#2 M/loop#1/loop#3 M/loop#2 M/loop#2/loop#1 M/loop#2/loop#2 M/loop#2/loop#3 N/loop#1 N/loop#2 |";
    a_failure_in_the_body_fails_the_run:
        r#"I>L L>B[continue] B>L L>E[break]; L = loop-controller; L.params = {"condition":"true"}; B = fail boom"#,
        input json!(0)
        => "failed boom | I L/loop#1 | B/loop#1:failed E:cancelled L:cancelled";
    a_fallback_in_the_body_goes_on:
        r#"L>B[continue] B>L L>E[break]; L = loop-controller; L.params = {"condition":"input < 2"}; B = fail boom; B.config = {"fallback":"F"}; F = set; F.params = {"output":"{{ input + 1 }}"}"#,
        input json!(0)
        => "completed 2 | E F/loop#1 F/loop#2 L L/loop#1 L/loop#2 L/loop#3 | B/loop#1:failed B/loop#2:failed";
    retries_and_sleeps_in_the_body:
        r#"L>S[continue] S>B B>L L>E[break]; L = loop-controller; L.params = {"condition":"input < 2"}; S = sleep; S.params = {"duration":10}; B = flaky 1; B.config = {"maxRetries":2,"retryDelay":10}"#,
        input json!(0)
        => "completed 2 | B/loop#1*2 E L L/loop#1 L/loop#2 S/loop#1 |";
    a_transform_in_a_loop_reads_this_pass:
        r#"L>B[continue]~input*10~ B>L~nodes.B.output/10+1~ L>E[break]~[input,nodes.B.output]~; L = loop-controller; L.params = {"condition":"input < 3"}"#,
        input json!(1)
        => "completed [3,20] | B/loop#1 B/loop#2 E L L/loop#1 L/loop#2 L/loop#3 |";
    a_long_loop_ends:
        r#"L>B[continue] B>L L>E[break]; L = loop-controller; L.params = {"condition":"input < 300"}; B = set; B.params = {"output":"{{ input + 100 }}"}; E = count"#,
        input json!(0)
        => "completed 1 | B/loop#1 B/loop#2 B/loop#3 E L L/loop#1 L/loop#2 L/loop#3 L/loop#4 |";
}

/// A thousand passes are allowed, and one more is not; neither is one delivery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_passes() {
    let harness = Harness::start().await;
    let check = async |last: u64, expect: &str| {
        let text = r#"L>B[continue] B>L L>E[break]; L = loop-controller; B = set; B.params = {"output":"{{ input + 1 }}"}"#;
        let mut definition = blueprint(text);
        definition["nodes"][0]["params"] = json!({ "condition": format!("input < {last}") });
        let result = harness.run_result(&definition, json!(0)).await;
        let seen = match &result.error {
            Some(error) => error.to_string(),
            None => result.output.text().to_owned(),
        };
        assert_eq!(seen, expect);
    };
    check(1000, "1000").await;
    check(
        1001,
        "the loop has had 1000 passes, which is its max_iterations",
    )
    .await;
    harness.stop().await;
}

/// What is no loop is refused when the workflow is loaded, by the names of its nodes.
#[tokio::test]
async fn what_is_no_loop_is_refused() {
    let check = |text: &str, expect: &str| {
        let error = Harness::load_error(&blueprint(text));
        assert!(error.contains(expect), "{error}");
    };
    let controller = r#"L = loop-controller; L.params = {"condition":"true"}"#;
    check("A>B B>A", "a cycle without a loop-controller: A > B > A");
    check(
        &format!("A>L L>B[break]; {controller}"),
        "the loop `L` has no edge with the action `continue`",
    );
    check(
        &format!("L>B[continue] B>L A>B; {controller}"),
        "`B` is in the body of the loop `L`, and an edge leads to it from `A`, which is not",
    );
    check(
        &format!("L>B[continue] B>C; {controller}"),
        "nothing leads from the body of the loop `L` back to `L`",
    );
    check("L>B[continue] B>L; L = loop-controller", "condition");
    check(
        r#"L>B[continue] B>L; L = loop-controller; L.params = {"condition":"input <"}"#,
        "nodes[0].params.condition",
    );
    check(
        r#"L>B[continue] B>L; L = loop-controller; L.params = {"condition":"{{ true }}"}"#,
        "`condition` is an expression already",
    );
}
