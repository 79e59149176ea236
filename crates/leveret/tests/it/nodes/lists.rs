//! Nodes over lists and objects, on an engine: outputs, and what is wrong with inputs and parameters.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use leveret::{
    core::parse::{NodeCatalog, Source, check_workflow, workflow_from_json},
    nodes::Registry,
};
use serde_json::{Value, json};

use crate::harness::Harness;

/// One node, behind one that gives the list or object.
#[expect(clippy::needless_pass_by_value)] // As `json!` makes it.
fn definition(uses: &str, params: Value) -> Value {
    json!({
        "id": "w",
        "nodes": [
            { "id": "given", "uses": "set", "params": { "output": "{{ run.input.given }}" } },
            { "id": "it", "uses": uses, "params": params },
        ],
        "edges": [{ "source": "given", "target": "it" }],
    })
}

struct World(Harness);

impl World {
    async fn start() -> World {
        World(Harness::with(Registry::builtin()).await)
    }

    /// The output of the node, else its error with the code.
    async fn ends(&self, uses: &str, params: Value, given: Value) -> Value {
        let input = json!({ "given": given, "least": 2 });
        let result = self.0.run_result(&definition(uses, params), input).await;
        match result.error {
            None => result.output.value().clone(),
            Some(error) => {
                let error = serde_json::to_value(error).expect("it prints");
                json!([error["code"], error["message"]])
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_mapped_filtered_sorted_and_cut() {
    let world = World::start().await;
    let list =
        json!([{ "n": 2, "s": "b" }, { "n": 1.5, "s": "a" }, { "n": 2, "s": "c" }, { "s": "d" }]);
    for (uses, params, expect) in [
        (
            "map",
            json!({ "output": ["{{ index }}", "{{ item.s }}{{ size(input) }}", "{{ nodes.given.output[0].n + run.input.least }}"] }),
            json!([[0, "b4", 4], [1, "a4", 4], [2, "c4", 4], [3, "d4", 4]]),
        ),
        ("map", json!({ "output": 5 }), json!([5, 5, 5, 5])),
        (
            "map",
            json!({ "output": null }),
            json!([null, null, null, null]),
        ),
        (
            "filter",
            json!({ "condition": " has(item.n) && item.n >= context.least || index == 3 " }),
            json!([list[0], list[2], list[3]]),
        ),
        // Stable in both directions; what has no key is last in both.
        (
            "sort",
            json!({ "by": "has(item.n) ? item.n : null" }),
            json!([list[1], list[0], list[2], list[3]]),
        ),
        (
            "sort",
            json!({ "by": "has(item.n) ? item.n : null", "order": "desc" }),
            json!([list[0], list[2], list[1], list[3]]),
        ),
        (
            "sort",
            json!({ "by": "item.s == 'c'" }),
            json!([list[0], list[1], list[3], list[2]]),
        ),
        (
            "sort",
            json!({ "by": "0 - index", "order": null }),
            json!([list[3], list[2], list[1], list[0]]),
        ),
        (
            "limit",
            json!({ "count": "{{ run.input.least }}" }),
            json!([list[0], list[1]]),
        ),
        ("limit", json!({ "count": 0 }), json!([])),
        ("limit", json!({ "count": 9 }), list.clone()),
    ] {
        let seen = world.ends(uses, params.clone(), list.clone()).await;
        assert_eq!(seen, expect, "{uses} {params}");
    }
    let numbers = json!([
        9_007_199_254_740_993_u64,
        9_007_199_254_740_992.0,
        -1,
        9_007_199_254_740_992_u64,
        0.5,
        1e300
    ]);
    let sorted = world.ends("sort", json!({}), numbers.clone()).await;
    assert_eq!(
        sorted,
        json!([-1, 0.5, numbers[1], numbers[3], numbers[0], 1e300])
    );
    for (uses, params) in [
        ("map", json!({ "output": "{{ item.x }}" })),
        ("sort", json!({})),
        ("filter", json!({ "condition": "item" })),
    ] {
        assert_eq!(
            world.ends(uses, params, json!([])).await,
            json!([]),
            "{uses}"
        );
    }
    world.0.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_edited() {
    let world = World::start().await;
    let object = json!({ "a": { "b": 1, "c": 2 }, "list": [1, 2] });
    let params = json!({
        "set": { "a.b": "{{ input.a.c }}", "a.d.e": [true], "list.1": "{{ null }}" },
        "remove": ["a.c", "{{ 'x' + '.y' }}", "list.0"],
    });
    // What is removed is gone before anything is set: the list has one element then.
    let seen = world.ends("edit", params.clone(), object.clone()).await;
    assert_eq!(
        seen,
        json!([
            "node_failed",
            "'list.1' leads to '1' of a list with 1 elements"
        ])
    );
    let mut params = params;
    params["remove"] = json!(["a", "x.y"]);
    let seen = world.ends("edit", params, object.clone()).await;
    assert_eq!(
        seen,
        json!({ "a": { "b": 2, "d": { "e": [true] } }, "list": [1, null] })
    );
    assert_eq!(world.ends("edit", json!({}), object.clone()).await, object);
    world.0.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_told_with_what_was_found() {
    let world = World::start().await;
    for (uses, params, given, expect) in [
        (
            "map",
            json!({ "output": 1 }),
            json!({}),
            json!(["node_failed", "the input must be a list, not an object"]),
        ),
        (
            "filter",
            json!({ "condition": "true" }),
            json!(null),
            json!(["node_failed", "the input must be a list, not null"]),
        ),
        (
            "sort",
            json!({}),
            json!("abc"),
            json!(["node_failed", "the input must be a list, not text"]),
        ),
        (
            "limit",
            json!({ "count": 1 }),
            json!(5),
            json!(["node_failed", "the input must be a list, not a number"]),
        ),
        (
            "edit",
            json!({}),
            json!([1]),
            json!(["node_failed", "the input must be an object, not a list"]),
        ),
        (
            "map",
            json!({ "output": "{{ item.x }}" }),
            json!([{ "x": 1 }, {}]),
            json!([
                "expression",
                "item 1: expression `item.x`: there is no field `x`"
            ]),
        ),
        (
            "filter",
            json!({ "condition": "item" }),
            json!([true, "yes"]),
            json!([
                "node_failed",
                "item 1: the condition gives text, not true or false"
            ]),
        ),
        (
            "sort",
            json!({}),
            json!([1, null, "a"]),
            json!([
                "node_failed",
                "item 2: its key is text, and one before it a number: they have no order"
            ]),
        ),
        (
            "sort",
            json!({}),
            json!([1, [2]]),
            json!([
                "node_failed",
                "item 1: a list has no order; sort by a number, a text or a truth value"
            ]),
        ),
        (
            "sort",
            json!({ "order": "{{ 'up' }}" }),
            json!([]),
            json!(["node_failed", "order \"up\" is neither asc nor desc"]),
        ),
        (
            "limit",
            json!({ "count": "{{ -1 }}" }),
            json!([]),
            json!([
                "node_failed",
                "parameter 'count' must be a whole number from 0, not -1"
            ]),
        ),
        (
            "edit",
            json!({ "remove": ["{{ '' }}"] }),
            json!({}),
            json!([
                "node_failed",
                "'' is no path: it is keys with dots between them, 64 at most, none of them empty"
            ]),
        ),
        // Each alone is within the bound, and all of them are not.
        (
            "map",
            json!({ "output": "x".repeat(1 << 20) }),
            json!((0..20).collect::<Vec<_>>()),
            json!([
                "node_failed",
                "item 15: with it the list comes to more than the 16777216 bytes allowed"
            ]),
        ),
    ] {
        let seen = world.ends(uses, params, given).await;
        assert_eq!(seen, expect, "{uses}");
    }
    world.0.stop().await;
}

/// With the line and the column, by what stands there and by the node type.
#[test]
fn parameters_are_checked_when_the_workflow_is_loaded() {
    // Each is told where this text begins.
    let check = |node: &str, at: &str, expect: &str| {
        let line = format!("  - {{id: a, uses: {node}}}");
        let text = format!("id: w\nnodes:\n{line}\n");
        let source = Source {
            name: "w.yaml",
            text: &text,
        };
        let (_, problems) = check_workflow(&source, Some(&Registry::builtin()));
        let column = line.find(at).expect("it is there") + 1;
        let expect = format!("w.yaml:3:{column}: error: {expect}");
        let told = problems.to_string();
        assert!(told.contains(&expect), "{node}: {told} instead of {expect}");
    };
    check("map", "{id", "parameter 'output' is missing");
    check(
        "map, params: {output: {n: '{{ itme.n }}'}}",
        "itme",
        "`itme` is not known here",
    );
    let both = "map, params: {output: '{{ item }}', count: 1}";
    check(both, "1}", "unknown parameter 'count'; known: output");
    check(
        "filter, params: {condition: ''}",
        "''",
        "parameter 'condition' is empty",
    );
    check(
        "filter, params: {condition: true}",
        "true",
        "`condition` must be text, not true or false",
    );
    check(
        "filter, params: {condition: '{{ item }}'}",
        "'{{",
        "`condition` is an expression already",
    );
    check(
        "filter, params: {condition: 'item + * 1'}",
        "* 1",
        "expected",
    );
    check(
        "sort, params: {order: up}",
        "up",
        "order \"up\" is neither asc nor desc",
    );
    check(
        "limit, params: {count: -1}",
        "-1",
        "parameter 'count' must be a whole number, not this number",
    );
    let edit = "edit, params: {set: {a..b: 1}, remove: [5]}";
    check(
        edit,
        "1}",
        "'a..b' is no path: it is keys with dots between them",
    );
    check(edit, "5]", "a path is text, not a number");
    check(
        "edit, params: {set: {a.b: 1, a-b: 2, a: 3}}",
        "1",
        "'a.b' is within 'a', which is set too",
    );
    // There is no item elsewhere.
    check(
        "set, params: {output: '{{ item }}'}",
        "item }}",
        "`item` is not known here",
    );
    let templates = json!({ "set": "{{ input }}", "remove": "{{ input }}" });
    assert!(
        Registry::builtin()
            .check_params("edit", &templates)
            .is_empty()
    );
    // What is read beside the items is known, so that it is there.
    let reads = definition("map", json!({ "output": "{{ nodes.given.output }}" }));
    let workflow = workflow_from_json(&reads, None).expect("it is valid");
    assert!(workflow.nodes[1].references().nodes.contains("given"));
}

/// While a list of 100,000 items is worked on, the other tasks of the same thread have their turns.
#[tokio::test]
async fn a_large_list_keeps_nobody_waiting() {
    let world = World::start().await;
    let list: Vec<_> = (0..100_000).map(|n| json!(n * 7919 % 100_003)).collect();
    let turns = Arc::new(AtomicUsize::new(0));
    let ticking = tokio::spawn({
        let turns = turns.clone();
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    for (uses, params) in [
        ("map", json!({ "output": "{{ item * 2 + index }}" })),
        (
            "filter",
            json!({ "condition": "item % 2 == 0 && [1, 2, 3].exists(n, n == item % 5)" }),
        ),
        ("sort", json!({ "by": "string(item)", "order": "desc" })),
    ] {
        let before = turns.load(Ordering::Relaxed);
        let seen = world.ends(uses, params, json!(list)).await;
        assert!(seen.as_array().is_some_and(|list| list.len() > 1), "{seen}");
        let had = turns.load(Ordering::Relaxed) - before;
        assert!(had >= 20, "{uses}: {had} turns");
    }
    ticking.abort();
    world.0.stop().await;
}
