//! Batches on a real engine: items, limits, failures, what names mean in them, nesting, and what is refused.

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
    case_49_a_worker_is_executed_for_each_item:
        r#"I>S S>G G>E; S = batch-scatter; S.params = {"workerUsesKey":"double","gatherNodeId":"G","outputKey":"all"}; G = batch-gather; G.params = {"gatherNodeId":"G","outputKey":"all"}; E = set; E.params = {"output":["{{ input }}","{{ context.all }}"]}"#,
        input json!([1, 2, 3])
        => "completed [[2,4,6],[2,4,6]] | E G I S S.worker/each[0] S.worker/each[1] S.worker/each[2] |";
    case_50_an_empty_list_gives_an_empty_list:
        r#"I>S S>B B>G G>E; S = batch-scatter; S.params = {"gatherNodeId":"G"}; G = batch-gather"#,
        input json!([])
        => "completed [] | E G I S |";
    case_51_a_failing_item_fails_the_run:
        r#"I>S S>B B>G G>E; S = batch-scatter; S.params = {"gatherNodeId":"G"}; G = batch-gather; B = set; B.params = {"output":"{{ 6 / item }}"}"#,
        input json!([1, 0, 2])
        => "failed item 1, node 'B': expression `6 / item`: division by zero | B/each[0] B/each[2] I S | B/each[1]:failed E:cancelled G:cancelled";
    case_52_a_chunked_result_is_flat:
        r#"I>S S>G G>E; S = batch-scatter; S.params = {"workerUsesKey":"double","gatherNodeId":"G","chunkSize":2}; G = batch-gather"#,
        input json!([1, 2, 3, 4, 5])
        => "completed [2,4,6,8,10] | E G I S S.worker/each[0] S.worker/each[1] S.worker/each[2] S.worker/each[3] S.worker/each[4] |";
    case_53_what_is_no_list_fails_the_scatter:
        r#"I>S S>B B>G G>E; S = batch-scatter; S.params = {"gatherNodeId":"G"}; G = batch-gather"#,
        input json!({ "a": 1 })
        => "failed the input must be a list, not an object | I | E:cancelled G:cancelled S:failed";
    item_and_index_are_known_between:
        r#"S>A~item*10~ A>B{item != 2} B>G~{'i': index, 'item': item, 'of': nodes.A.output, 'in': input}~; S = batch-scatter; S.params = {"gatherNodeId":"G"}; G = batch-gather; A = set; A.params = {"output":["{{ input }}","{{ item }}","{{ index }}"]}; B = count; B.inputs = {"x":"{{ index + item }}"}"#,
        input json!([1, 2, 3])
        => r#"completed [{"i":0,"in":1,"item":1,"of":[10,1,0]},{"i":2,"in":1,"item":3,"of":[30,3,2]}] | A/each[0] A/each[1] A/each[2] B/each[0] B/each[2] G S | B/each[1]:skipped"#;
    items_run_one_after_the_other:
        r#"S>A A>B B>G; S = batch-scatter; S.params = {"gatherNodeId":"G","concurrency":1}; G = batch-gather; A = sleep; A.params = {"duration":5}; B = count"#,
        input json!([1, 2, 3])
        => "completed [1,1,1] | A/each[0] A/each[1] A/each[2] B/each[0] B/each[1] B/each[2] G S |";
    an_item_branches_and_joins:
        r#"S>A A>B{item > 1} A>C{item == 1} B>G C>G A>D; S = batch-scatter; S.params = {"gatherNodeId":"G"}; G = batch-gather; B = const; B.params = {"value":"b"}; C = const; C.params = {"value":"c"}; D = count"#,
        input json!([1, 2])
        => r#"completed ["c","b"] | A/each[0] A/each[1] B/each[1] C/each[0] D/each[0] D/each[1] G S | B/each[0]:skipped C/each[1]:skipped"#;
    on_error_skip_leaves_items_out:
        r#"S>B B>G G>E; S = batch-scatter; S.params = {"gatherNodeId":"G","on_error":"skip"}; G = batch-gather; B = set; B.params = {"output":"{{ 6 / item }}"}"#,
        input json!([1, 0, 2])
        => "completed [6,3] | B/each[0] B/each[2] E G S | B/each[1]:failed";
    on_error_collect_puts_errors_in_their_place:
        r#"S>B B>G G>E; S = batch-scatter; S.params = {"gatherNodeId":"G","on_error":"collect"}; G = batch-gather; B = fail boom"#,
        input json!([1])
        => r#"completed [{"error":{"code":"node_failed","message":"boom","node_id":"B"}}] | E G S | B/each[0]:failed"#;
    an_item_with_a_failed_dead_end_failed:
        r#"S>A A>B A>G; S = batch-scatter; S.params = {"gatherNodeId":"G","on_error":"skip"}; G = batch-gather; B = fail boom"#,
        input json!([1])
        => "completed [] | A/each[0] G S | B/each[0]:failed";
    items_are_retried_by_themselves_and_have_fallbacks:
        r#"S>B B>C C>G; S = batch-scatter; S.params = {"gatherNodeId":"G"}; G = batch-gather; B = flaky 1; B.config = {"maxRetries":2,"retryDelay":5}; C = fail boom; C.config = {"fallback":"F"}; F = set; F.params = {"output":"{{ item * 2 }}"}"#,
        input json!([1, 2])
        => "completed [2,4] | B/each[0]*2 B/each[1]*2 F/each[0] F/each[1] G S | C/each[0]:failed C/each[1]:failed";
    a_worker_is_retried_as_its_scatter_says:
        r#"S>G; S = batch-scatter; S.params = {"workerUsesKey":"count","gatherNodeId":"G"}; S.config = {"maxRetries":2,"retryDelay":5,"timeout":5000}; G = batch-gather"#,
        input json!([1, 2])
        => "completed [1,1] | G S S.worker/each[0] S.worker/each[1] |";
    batches_are_nested:
        r#"S>T T>B B>H H>X X>G; S = batch-scatter; S.params = {"gatherNodeId":"G"}; G = batch-gather; T = batch-scatter; T.params = {"gatherNodeId":"H","concurrency":1}; H = batch-gather; B = set; B.params = {"output":"{{ [item, index] }}"}; X = set; X.params = {"output":{"i":"{{ index }}","of":"{{ item }}","all":"{{ input }}"}}"#,
        input json!([[5, 6], [], [7]])
        => r#"completed [{"all":[[5,0],[6,1]],"i":0,"of":[5,6]},{"all":[],"i":1,"of":[]},{"all":[[7,0]],"i":2,"of":[7]}] | B/each[0]/each[0] B/each[0]/each[1] B/each[2]/each[0] G H/each[0] H/each[1] H/each[2] S T/each[0] T/each[1] T/each[2] X/each[0] X/each[1] X/each[2] |"#;
    an_inner_failure_is_caught_outside:
        r#"S>T T>B B>H H>G; S = batch-scatter; S.params = {"gatherNodeId":"G","on_error":"collect"}; G = batch-gather; T = batch-scatter; T.params = {"gatherNodeId":"H"}; H = batch-gather; B = fail boom"#,
        input json!([[1], []])
        => r#"completed [{"error":{"code":"node_failed","message":"boom","node_id":"B"}},[]] | G H/each[1] S T/each[0] T/each[1] | B/each[0]/each[0]:failed H/each[0]:cancelled"#;
    a_loop_in_a_batch:
        r#"S>L L>B[continue] B>L L>C[break] C>G; S = batch-scatter; S.params = {"gatherNodeId":"G"}; G = batch-gather; L = loop-controller; L.params = {"condition":"input < item * 2"}; B = set; B.params = {"output":"{{ input + 1 }}"}; C = set; C.params = {"output":["{{ input }}","{{ nodes.B.output }}","{{ index }}"]}"#,
        input json!([1, 2])
        => "completed [[2,2,0],[4,4,1]] | B/each[0]/loop#1 B/each[1]/loop#1 B/each[1]/loop#2 C/each[0] C/each[1] G L/each[0] L/each[0]/loop#1 L/each[0]/loop#2 L/each[1] L/each[1]/loop#1 L/each[1]/loop#2 L/each[1]/loop#3 S |";
    a_batch_in_a_loop:
        r#"L>S[continue] S>B B>G G>L L>E[break]; L = loop-controller; L.params = {"condition":"input[0] < 4"}; S = batch-scatter; S.params = {"gatherNodeId":"G","concurrency":1}; G = batch-gather; B = set; B.params = {"output":"{{ item * 2 }}"}"#,
        input json!([1, 10])
        => "completed [4,40] | B/loop#1/each[0] B/loop#1/each[1] B/loop#2/each[0] B/loop#2/each[1] E G/loop#1 G/loop#2 L L/loop#1 L/loop#2 L/loop#3 S/loop#1 S/loop#2 |";
    a_batch_that_is_not_reached_is_skipped:
        r#"I>S{input == 1} I>X S>B B>G G>E X>E; S = batch-scatter; S.params = {"gatherNodeId":"G"}; G = batch-gather"#,
        input json!(2)
        => "completed 2 | E I X | G:skipped S:skipped";
}

/// More items than one delivery begins, than a gather reads at once, and than run at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_items() {
    let harness = Harness::start().await;
    let items: Vec<u64> = (0..1234).collect();
    let doubled: Vec<u64> = items.iter().map(|item| item * 2).collect();
    for limits in [
        "",
        r#","concurrency":7"#,
        r#","chunkSize":100"#,
        r#","chunkSize":600,"concurrency":550"#,
    ] {
        let text = format!(
            r#"S>B B>G; S = batch-scatter; S.params = {{"gatherNodeId":"G"{limits}}}; G = batch-gather; B = double"#
        );
        let result = harness.run_result(&blueprint(&text), json!(items)).await;
        assert_eq!(result.output.value(), &json!(doubled), "{limits}");
        assert_eq!(result.steps.len(), 2 + items.len());
    }
    harness.stop().await;
}

/// A list that is too large fails the gather with its size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_too_large() {
    let harness = Harness::start().await;
    let text = r#"S>B B>G; S = batch-scatter; S.params = {"gatherNodeId":"G"}; G = batch-gather; B = set; B.params = {"output":"{{ run.input[0] + run.input[1] }}"}"#;
    let half = "x".repeat(1 << 20);
    let result = harness
        .run_result(&blueprint(text), json!([half, half, 1, 2, 3]))
        .await;
    let error = result.error.expect("it fails").to_string();
    // Five results of 2 MiB with their quotes, commas and brackets.
    let expect = format!(
        "the list of 5 results has {} bytes, more than the {} allowed for the output of a `batch-gather`",
        5 * (2 * (1 << 20) + 2) + 4 + 2,
        8 << 20
    );
    assert_eq!(error, expect);
    harness.stop().await;
}

/// What is no batch is refused when the workflow is loaded, with its place.
#[tokio::test]
async fn what_is_no_batch_is_refused() {
    let check = |text: &str, expect: &str| {
        let error = Harness::load_error(&blueprint(text));
        assert!(error.contains(expect), "{error}");
    };
    let batch = r#"S = batch-scatter; S.params = {"gatherNodeId":"G"}; G = batch-gather"#;
    check(
        "A>G; G = batch-gather",
        "nodes[1]: error: no `batch-scatter` names the gather `G`",
    );
    check(
        &format!("S>G; {batch}"),
        "nodes[0]: error: the batch `S` has neither a node between scatter and gather nor a `workerUsesKey`",
    );
    check(
        &format!("S>B A>B B>G; {batch}"),
        "an edge leads from the batch `S` to `B`, to which others lead, too",
    );
    check(
        &format!("S>B B>G A>G; {batch}"),
        "an edge leads to the gather `G` from `A`, which is not in the body of its batch",
    );
    check(
        &format!("S>B[x] B>G; {batch}"),
        "edges[0].action: error: an edge from a `batch-scatter` has no `action` here",
    );
    check(
        &format!("S>B{{index == 0}} B>G; {batch}"),
        "edges[0].condition: error: an edge from a `batch-scatter` has no `condition` here",
    );
    check(
        &format!("S>B B>G; {batch}; G.inputs = \"B\""),
        "inputs: error: a gather has no `inputs`",
    );
    let params =
        |params: &str| format!("S>B B>G; S = batch-scatter; S.params = {params}; G = batch-gather");
    check(
        &params("{}"),
        "the parameters of a batch needs `gatherNodeId`",
    );
    check(
        &params(r#"{"gatherNodeId":"H"}"#),
        "nodes[0].params.gatherNodeId: error: there is no node `H`",
    );
    check(
        &params(r#"{"gatherNodeId":"B"}"#),
        "the `gatherNodeId` of the batch `S` names no `batch-gather`",
    );
    check(
        &params(r#"{"gatherNodeId":"G","workerUsesKey":"set"}"#),
        "nodes[0].params.workerUsesKey: error: `workerUsesKey` is for a batch in which one edge leads from `S` to its gather",
    );
    for (param, expect) in [
        (
            r#""concurrency":0"#,
            "`concurrency` must be a whole number from 1 to 100000",
        ),
        (
            r#""chunkSize":"{{ 2 }}""#,
            "`chunkSize` must be a whole number from 1 to 100000",
        ),
        (
            r#""on_error":"ignore""#,
            "`on_error` must be `fail`, `skip` or `collect`",
        ),
        (
            r#""workerUsesKey":"loop-controller""#,
            "`loop-controller` cannot be a worker",
        ),
    ] {
        check(
            &params(&format!(r#"{{"gatherNodeId":"G",{param}}}"#)),
            expect,
        );
    }
    // Outside of the batch there is no item.
    check(
        &format!("S>B B>G G>E; {batch}; E = set; E.params = {{\"output\":\"{{{{ item }}}}\"}}"),
        "`item` is not known here",
    );
}
