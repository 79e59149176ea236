//! Definitions as text, problems as text.

use std::{fmt::Write as _, time::Duration};

use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::workflow::{InputRef, Inputs, Join};

/// What a file gives: its problems, or its canonical definition.
fn check(text: &str) -> String {
    check_named("w.yaml", text)
}

fn check_named(name: &str, text: &str) -> String {
    let (workflow, diagnostics) = check_workflow(&Source { name, text }, None);
    let mut shown = String::new();
    for diagnostic in &diagnostics.0 {
        writeln!(shown, "[{}] {diagnostic}", diagnostic.code).unwrap();
    }
    if let Some(workflow) = workflow {
        shown.push_str(workflow.definition.text());
    }
    shown
}

fn parse(text: &str) -> Workflow {
    let name = "w.yaml";
    parse_workflow(&Source { name, text }, None).unwrap_or_else(|error| panic!("{error}"))
}

/// A workflow of these nodes, one a line, and of edges `A>B`.
fn graph(nodes: &str, edges: &str) -> String {
    let mut text = String::from("id: w\nnodes:\n");
    for node in nodes.lines().map(str::trim).filter(|node| !node.is_empty()) {
        writeln!(text, "  - {{uses: x, {node}}}").unwrap();
    }
    text.push_str("edges:\n");
    for edge in edges.split_whitespace() {
        let (source, target) = edge.split_once('>').unwrap();
        writeln!(text, "  - {{source: {source}, target: {target}}}").unwrap();
    }
    check(&text)
}

/// A workflow reads the secrets that it declares and no others, wherever an expression stands.
#[test]
fn secrets_are_declared() {
    let text = |declared: &str| {
        format!(
            "id: w
{declared}
nodes:
  - {{ id: a, uses: x, params: {{ k: \"{{{{ secret('KEY') }}}}\" }} }}
  - {{ id: b, uses: x, inputs: {{ k: \"{{{{ secret('OTHER') }}}}\" }} }}
edges:
  - {{ source: a, target: b, condition: \"secret('KEY') == 'x'\" }}
"
        )
    };
    assert_snapshot!(check(&text("")), @"
    [bad-template] w.yaml:4:40: error: the workflow does not declare the secret `KEY`
      help: declare it: `secrets: [KEY]` beside `nodes`
    [bad-template] w.yaml:5:40: error: the workflow does not declare the secret `OTHER`
      help: declare it: `secrets: [OTHER]` beside `nodes`
    [bad-expression] w.yaml:7:41: error: the workflow does not declare the secret `KEY`
      help: declare it: `secrets: [KEY]` beside `nodes`
    ");
    assert_snapshot!(check(&text("secrets: [KEY]")), @"
    [bad-template] w.yaml:5:40: error: the workflow does not declare the secret `OTHER`
      help: declare it: `secrets: [OTHER]` beside `nodes`
    ");
    assert_snapshot!(check(&text("secrets: { KEY: x }")), @"[wrong-type] w.yaml:2:10: error: `secrets` must be a list of names, not an object");
    assert_snapshot!(check(&text("secrets: [KEY, OTHER, 7, '']")), @r#"
    [wrong-type] w.yaml:2:23: error: the name of a secret must be text, not a number
      help: put quotes around it: "7"
    "#);
    let workflow = parse(&text("secrets: [OTHER, KEY, KEY]"));
    assert_eq!(
        workflow.definition.value()["secrets"],
        json!(["KEY", "OTHER"])
    );
    let again = workflow_from_json(workflow.definition.value(), None).unwrap();
    assert_eq!(again.hash, workflow.hash);
}

#[test]
fn reads_yaml_and_json_alike() {
    let yaml = parse(
        r"
        id: order
        metadata: { version: '2' }
        nodes:
          - id: fetch
            uses: http
            name: Fetch it
            params:
              url: 'https://x/{{ run.input.id }}'
            config: { maxRetries: 3, retryDelay: 250ms, timeout: 10s, fallback: plan-b, joinStrategy: any }
          - id: plan-b
            uses: log
          - id: pay
            uses: log
            inputs: { total: fetch.total, who: customer, at: _outputs.fetch, calc: '{{ input.n * 2 }}' }
        edges:
          - source: fetch
            target: pay
            action: ok
            condition: result.output.total > 3
            transform: input.total
        ",
    );
    let json = parse(yaml.definition.text());
    assert_eq!(yaml, json);
    assert_eq!(yaml.definition, json.definition);
    assert_eq!(
        workflow_from_json(yaml.definition.value(), None)
            .unwrap()
            .hash,
        yaml.hash
    );
    assert_snapshot!(yaml.definition.text(), @r#"{"edges":[{"action":"ok","condition":"result.output.total > 3","source":"fetch","target":"pay","transform":"input.total"}],"id":"order","metadata":{"version":"2"},"nodes":[{"config":{"fallback":"plan-b","joinStrategy":"any","maxRetries":3,"retryDelay":"250ms","timeout":"10s"},"id":"fetch","name":"Fetch it","params":{"url":"https://x/{{ run.input.id }}"},"uses":"http"},{"id":"plan-b","uses":"log"},{"id":"pay","inputs":{"at":"_outputs.fetch","calc":"{{ input.n * 2 }}","total":"fetch.total","who":"customer"},"uses":"log"}]}"#);

    let [fetch, plan_b, pay] = yaml.nodes.as_slice() else {
        panic!("three nodes");
    };
    assert_eq!((yaml.node_ix("pay"), yaml.node_ix("none")), (Some(2), None));
    assert_eq!(fetch.name.as_deref(), Some("Fetch it"));
    assert_eq!(fetch.inputs, Inputs::Handed);
    assert_eq!(fetch.config.attempts_max, 3);
    assert_eq!(fetch.config.retry_delay, Duration::from_millis(250));
    assert_eq!(fetch.config.timeout, Some(Duration::from_secs(10)));
    assert_eq!(fetch.config.fallback, Some(1));
    assert_eq!(fetch.config.join, Join::Any);
    assert_eq!(plan_b.config, crate::workflow::NodeConfig::default());
    assert_snapshot!(format!("{:?}", pay.inputs), @r#"Map([("at", Node { ix: 0, path: [] }), ("calc", Expression("input.n * 2")), ("total", Node { ix: 0, path: ["total"] }), ("who", Context { key: "customer" })])"#);
    assert_snapshot!(format!("{:?}", yaml.edges), @r#"[Edge { source: 0, target: 2, on_failure: false, action: Some("ok"), condition: Some("result.output.total > 3"), transform: Some("input.total") }]"#);
}

#[test]
fn resolves_inputs_as_flowcraft_does() {
    let inputs = |inputs: &str| {
        let text = format!(
            "id: w\nnodes:\n  - {{id: A, uses: x}}\n  - {{id: A.b, uses: x}}\n  - {{id: _c, uses: x}}\n  - {{id: T, uses: x, inputs: {inputs}}}"
        );
        parse(&text).nodes.pop().unwrap().inputs
    };
    let node = |ix, path: &[&str]| {
        let path = path.iter().map(|key| (*key).into()).collect();
        Inputs::One(InputRef::Node { ix, path })
    };
    let context = |key: &str| Inputs::One(InputRef::Context { key: key.into() });
    let named = |ix| Inputs::One(InputRef::Named { ix });
    let handed = |ix| Inputs::One(InputRef::Handed { ix });
    assert_eq!(inputs("A"), named(0));
    assert_eq!(inputs("_outputs.A"), node(0, &[]));
    assert_eq!(inputs("_inputs.A"), handed(0));
    assert_eq!(inputs("_inputs.A.b"), handed(1));
    assert_eq!(inputs("_inputs.none"), context("_inputs.none"));
    assert_eq!(inputs("A.p.q"), node(0, &["p", "q"]));
    assert_eq!(inputs("A.b"), named(1));
    assert_eq!(inputs("A.b.c"), node(1, &["c"]));
    assert_eq!(inputs("_outputs.A.p"), node(0, &["p"]));
    assert_eq!(inputs("_c"), named(2));
    assert_eq!(inputs("customer"), context("customer"));
    assert_eq!(inputs("_batch.x"), context("_batch.x"));
    assert_eq!(inputs("''"), Inputs::Handed);
    assert_eq!(inputs("{}"), Inputs::Map(Vec::new()));
}

/// Nothing is silently null that a path should lead to.
#[test]
fn inputs_that_lead_nowhere_are_told() {
    let inputs = |inputs: &str| {
        let nodes = "  - {id: sales, uses: x}\n  - {id: b, uses: x, inputs: ";
        check(&format!(
            "id: w\nnodes:\n{nodes}{inputs}}}\nedges: [{{source: sales, target: b}}]"
        ))
    };
    assert_snapshot!(inputs("{a: slaes.body}"), @"
    [unknown-input] w.yaml:4:34: error: there is no node `slaes`
      help: did you mean `sales`?
    ");
    assert_snapshot!(inputs("slaes.body.x"), @"
    [unknown-input] w.yaml:4:30: error: there is no node `slaes`
      help: did you mean `sales`?
    ");
    assert_snapshot!(inputs("customer.name"), @"
    [unknown-input] w.yaml:4:30: error: there is no node `customer`
      help: what the run's input or the context has is read by an expression: `{{ run.input.a.b }}`, `{{ context.a.b }}`
    ");
    assert_snapshot!(inputs("slaes"), @r#"
    [unknown-input] w.yaml:4:30: warning: there is no node `slaes`: this is a key of the context, or of the run's input
      help: did you mean `sales`?
    {"edges":[{"source":"sales","target":"b"}],"id":"w","nodes":[{"id":"sales","uses":"x"},{"id":"b","inputs":"slaes","uses":"x"}]}
    "#);
    assert_snapshot!(inputs("_outputs.slaes"), @r#"
    [unknown-input] w.yaml:4:30: warning: there is no node `slaes`: this is a key of the context, or of the run's input
      help: did you mean `sales`?
    {"edges":[{"source":"sales","target":"b"}],"id":"w","nodes":[{"id":"sales","uses":"x"},{"id":"b","inputs":"_outputs.slaes","uses":"x"}]}
    "#);
    assert_snapshot!(inputs("customer"), @r#"{"edges":[{"source":"sales","target":"b"}],"id":"w","nodes":[{"id":"sales","uses":"x"},{"id":"b","inputs":"customer","uses":"x"}]}"#);
}

/// What means something elsewhere, and nothing where it stands.
#[test]
fn misplaced_keys_are_told() {
    assert_snapshot!(check("
id: w
type: workflow
schedule: { every: 5m }
trigger: manual
inputs: { a: text }
nodes:
  - { id: a, uses: x, schedule: 5m, config: { inputs: b, type: x } }
  - { id: b, type: http }
  - { id: c, type: card, uses: x }
edges:
  - { source: a, target: b, inputs: x, type: step }
"), @"
    [misplaced-key] w.yaml:3:1: error: `type` means nothing here
      help: a workflow has no type; each node `uses` one
    [misplaced-key] w.yaml:4:1: error: `schedule` means nothing here
      help: a schedule stands beside the workflow: `leveret schedules put`
    [misplaced-key] w.yaml:5:1: error: `trigger` means nothing here
      help: what starts a run is not part of its workflow: a schedule, `leveret runs start`, or `POST /api/v1/workflows/{id}/runs`
    [misplaced-key] w.yaml:6:1: error: `inputs` means nothing here
      help: the input of a run is not declared: expressions read it as `run.input`
    [misplaced-key] w.yaml:8:23: error: `schedule` means nothing here
      help: a schedule stands beside the workflow: `leveret schedules put`
    [misplaced-key] w.yaml:8:47: error: `inputs` means nothing here
      help: `inputs` stands beside `config`
    [misplaced-key] w.yaml:8:58: error: `type` means nothing here
      help: the type of a node is its `uses`
    [missing-field] w.yaml:9:20: error: a node needs `uses`
      help: `type` is for editors; did you mean `uses`?
    [misplaced-key] w.yaml:12:29: error: `inputs` means nothing here
      help: did you mean `transform`?
    ");
}

/// An edge on failure decides nothing more, and no loop has one.
#[test]
fn edges_on_failure_are_checked() {
    let edge = |edge: &str| {
        let nodes = "  - {id: a, uses: x}\n  - {id: b, uses: x}";
        check(&format!(
            "id: w\nnodes:\n{nodes}\nedges:\n  - {{source: a, target: b, {edge}}}"
        ))
    };
    assert_snapshot!(edge("on: failure, transform: input.code"), @r#"{"edges":[{"on":"failure","source":"a","target":"b","transform":"input.code"}],"id":"w","nodes":[{"id":"a","uses":"x"},{"id":"b","uses":"x"}]}"#);
    assert_snapshot!(edge("on: ''"), @r#"{"edges":[{"on":"","source":"a","target":"b"}],"id":"w","nodes":[{"id":"a","uses":"x"},{"id":"b","uses":"x"}]}"#);
    assert_snapshot!(edge("on: error"), @"
    [bad-value] w.yaml:6:32: error: `on` is `failure`
      help: an edge for results of one action has the `action`
    ");
    assert_snapshot!(edge("on: true"), @r#"
    [wrong-type] w.yaml:6:32: error: `on` must be text, not true or false
      help: put quotes around it: "true"
    "#);
    assert_snapshot!(edge("on: failure, action: x"), @"
    [bad-value] w.yaml:6:49: error: an edge on failure has no `action`
      help: it is always taken then; let a `switch` behind it decide by `input.code`
    ");
    assert_snapshot!(edge("on: failure, condition: input.code == 'timeout'"), @"
    [bad-value] w.yaml:6:52: error: an edge on failure has no `condition`
      help: it is always taken then; let a `switch` behind it decide by `input.code`
    ");
    assert_snapshot!(check("
id: w
nodes:
  - { id: l, uses: loop-controller, params: { condition: 'true' } }
  - { id: b, uses: x }
  - { id: e, uses: x }
edges:
  - { source: l, target: b, action: continue }
  - { source: b, target: l }
  - { source: l, target: e, action: break }
  - { source: l, target: e, on: failure }
"), @"[bad-loop] w.yaml:11:33: error: a loop-controller has no edges on failure");
}

#[test]
fn takes_nodes_by_id_and_an_empty_blueprint() {
    assert_snapshot!(check("id: w\nnodes:\n  b: {uses: x}\n  a: {uses: y, id: a}\nedges: [{source: b, target: a}]"), @r#"{"edges":[{"source":"b","target":"a"}],"id":"w","nodes":[{"id":"b","uses":"x"},{"id":"a","uses":"y"}]}"#);
    assert_snapshot!(check("{id: w, nodes: [], edges: []}"), @r#"{"edges":[],"id":"w","nodes":[]}"#);
    assert_snapshot!(check("id: w\nnodes:"), @r#"{"edges":[],"id":"w","nodes":[]}"#);
    assert_snapshot!(check("id: w\nnodes:\n  a: {uses: y, id: b}"), @r#"
    [other-id] w.yaml:3:20: warning: the node `a` has another id, `b`, and goes by that
    {"edges":[],"id":"w","nodes":[{"id":"b","uses":"y"}]}
    "#);
}

#[test]
fn drops_what_editors_add_and_warns_of_misspellings() {
    assert_snapshot!(check_named("w.json", r#"{
        "id": "w", "viewport": {},
        "nodes": [
            { "id": "a", "uses": "x", "position": { "x": 1 }, "style": {}, "_sourceLocation": {}, "type": "n", "data": 1 },
            { "id": "b", "uses": "x", "confg": { "maxRetries": 2 }, "config": { "maxRetry": 3, "timout": 5 }, "input": "a" }
        ],
        "edges": [ { "source": "a", "target": "b", "label": "x", "conditon": "true" } ]
    }"#), @r#"
    [unknown-key] w.json:5:39: warning: `confg` is not known and ignored
      help: did you mean `config`?
    [unknown-key] w.json:5:81: warning: `maxRetry` is not known and ignored
      help: did you mean `maxRetries`?
    [unknown-key] w.json:5:96: warning: `timout` is not known and ignored
      help: did you mean `timeout`?
    [unknown-key] w.json:5:111: warning: `input` is not known and ignored
      help: did you mean `inputs`?
    [unknown-key] w.json:7:66: warning: `conditon` is not known and ignored
      help: did you mean `condition`?
    {"edges":[{"source":"a","target":"b"}],"id":"w","nodes":[{"id":"a","uses":"x"},{"config":{},"id":"b","uses":"x"}]}
    "#);
}

#[test]
fn tells_all_problems_of_fields_at_once() {
    assert_snapshot!(check(r#"
id: 5
metadata: none
nodes:
  - id: a
  - uses: x
  - {id: "", uses: ""}
  - {id: a, uses: x}
  - id: c
    uses: 7
    name: 1
    params: [1]
    inputs: 3
    config: {maxRetries: "three", retryDelay: soon, retryDelayMax: -1, retryFactor: 0.5, retryJitter: 2, timeout: 0, joinStrategy: most}
  - {id: d, uses: x, config: {maxRetries: 0, retryDelay: 10s, retryDelayMax: 5s}, inputs: {a: 1, b: "x {{ y }}"}}
  - {id: e, uses: x, config: {maxRetries: 1.5, timeout: 400d}}
  - 12
edges:
  - {source: a, target: cc}
  - {target: c}
  - {source: A, target: d, action: 1, condition: 5, transform: "{{ input }}"}
"#), @r#"
    [wrong-type] w.yaml:2:5: error: the id of a workflow must be text, not a number
      help: put quotes around it: "5"
    [wrong-type] w.yaml:3:11: error: `metadata` must be an object, not text
    [missing-field] w.yaml:5:5: error: a node needs `uses`
    [missing-field] w.yaml:6:5: error: a node needs `id`
    [bad-id] w.yaml:7:10: error: the node id is empty
      help: an id has 1 to 200 bytes and no control characters
    [out-of-range] w.yaml:7:20: error: `uses` has 1 to 200 bytes
    [duplicate-id] w.yaml:8:10: error: there are two nodes `a`
    [wrong-type] w.yaml:10:11: error: `uses` must be text, not a number
      help: put quotes around it: "7"
    [wrong-type] w.yaml:11:11: error: `name` must be text, not a number
      help: put quotes around it: "1"
    [wrong-type] w.yaml:12:13: error: `params` must be an object, not a list
    [wrong-type] w.yaml:13:13: error: `inputs` must be text, or an object of texts, not a number
    [wrong-type] w.yaml:14:26: error: `maxRetries` must be a number, not text
    [bad-duration] w.yaml:14:47: error: `retryDelay` is not a time
      help: a time is a number of milliseconds, or "250ms", "10s", "5m", "1h", "2d"
    [out-of-range] w.yaml:14:68: error: `retryDelayMax` is 0 to 366 days
    [out-of-range] w.yaml:14:85: error: `retryFactor` is 1 to 100, not 0.5
    [out-of-range] w.yaml:14:103: error: `retryJitter` is 0 to 1, not 2
    [bad-value] w.yaml:14:132: error: `joinStrategy` is `all` or `any`
    [out-of-range] w.yaml:15:43: error: `maxRetries` is 1 to 1000, not 0
      help: it counts executions in all, the first included
    [out-of-range] w.yaml:15:78: error: `retryDelayMax` is less than `retryDelay`
    [wrong-type] w.yaml:15:95: error: an input must be the name of where it comes from, not a number
    [bad-template] w.yaml:15:101: error: an input is one `{{ expression }}`, or a name
      help: texts are made in `params`
    [wrong-type] w.yaml:16:43: error: `maxRetries` must be a whole number
    [out-of-range] w.yaml:16:57: error: `timeout` is 0 to 366 days
    [wrong-type] w.yaml:17:5: error: a node must be an object, not a number
    [unknown-target] w.yaml:19:25: error: there is no node `cc`
    [missing-field] w.yaml:20:5: error: an edge needs `source`
    [unknown-source] w.yaml:21:14: error: there is no node `A`
      help: did you mean `a`?
    [wrong-type] w.yaml:21:36: error: `action` must be text, not a number
      help: put quotes around it: "1"
    [wrong-type] w.yaml:21:50: error: `condition` must be text, not a number
      help: put quotes around it: "5"
    [bad-expression] w.yaml:21:64: error: `transform` is an expression already
      help: leave `{{` and `}}` out
    "#);
    assert_snapshot!(check("[]"), @"[wrong-type] w.yaml:1:1: error: a workflow must be an object, not a list");
    assert_snapshot!(check("nodes: 5\nedges: 6"), @"
    [missing-field] w.yaml:1:1: error: a workflow needs `id`
    [wrong-type] w.yaml:1:8: error: `nodes` must be a list, or an object by id, not a number
    [wrong-type] w.yaml:2:8: error: `edges` must be a list, not a number
    ");
    assert_snapshot!(check("{}"), @"
    [missing-field] w.yaml:1:1: error: a workflow needs `id`
    [missing-field] w.yaml:1:1: error: a workflow needs `nodes`
    ");
}

#[test]
fn points_into_expressions() {
    assert_snapshot!(check(r#"
id: w
nodes:
  - id: a
    uses: x
    params:
      plain: Hi {{ inptu.x }}
      list: [ok, "say \"{{ nodes.b.output }}\""]
  - {id: b, uses: x, params: {t: 'it''s {{ 1 + }}'}, inputs: "{{ reslt }}"}
  - id: c
    uses: x
    params:
      block: |
        first line
        {{ nope }}
edges:
  - {source: a, target: b, condition: result.output.n >> 3}
  - {source: a, target: b, condition: "  result.ouput.n > 3"}
  - source: a
    target: b
    transform: >-
      input +
      nothing
"#), @"
    [bad-template] w.yaml:7:20: error: `inptu` is not known here
      help: did you mean `input`?
    [bad-template] w.yaml:9:47: error: expected a value, but the expression ends
    [bad-template] w.yaml:9:66: error: `reslt` is not known here
      help: a context key is read by `context.reslt`; also in scope are input, run.input and nodes.ID.output
    [bad-template] w.yaml:15:12: error: `nope` is not known here
      help: a context key is read by `context.nope`; also in scope are input, run.input and nodes.ID.output
    [bad-expression] w.yaml:17:56: error: expected a value, but found `>`
    [bad-expression] w.yaml:18:49: error: `result` has no `ouput`
      help: it has `output` and `action`
    [bad-expression] w.yaml:22:7: error: `nothing` is not known here
      help: a context key is read by `context.nothing`; also in scope are input, run.input and nodes.ID.output
    ");
    assert_snapshot!(check_named("w.json", r#"{"id": "w", "nodes": [{"id": "a", "uses": "x",
        "params": {"t": "\"\u00e9\ud83d\ude00\" {{ \"x\" + nope }}"}}]}"#), @"
    [bad-template] w.json:2:60: error: `nope` is not known here
      help: a context key is read by `context.nope`; also in scope are input, run.input and nodes.ID.output
    ");
}

#[test]
fn checks_the_graph() {
    assert_snapshot!(graph("id: A\nid: B\nid: C\nid: D", "A>B B>C C>B C>D"), @"[cycle] w.yaml:10:5: error: a cycle without a loop-controller: B > C > B");
    assert_snapshot!(graph("id: A", "A>A"), @"[cycle] w.yaml:5:5: error: a cycle without a loop-controller: A > A");
    assert_snapshot!(graph("id: A\nid: B\nid: C", "A>B B>A B>C"), @"
    [unreachable] w.yaml:5:5: error: nothing leads to the node `C`
    [cycle] w.yaml:8:5: error: a cycle without a loop-controller: A > B > A
    ");
    assert_snapshot!(graph("id: A\nid: B", "A>B A>B"), @r#"{"edges":[{"source":"A","target":"B"},{"source":"A","target":"B"}],"id":"w","nodes":[{"id":"A","uses":"x"},{"id":"B","uses":"x"}]}"#);
}

/// A mistake hides no other: neither a key that comes twice, nor one in a field, nor one before it in the same text.
#[test]
fn tells_of_the_graph_beside_other_mistakes() {
    assert_snapshot!(check("
id: w
nodes:
  - {id: a, uses: x, uses: y, params: {t: '{{ nope }} and {{ 1 + }} and {{'}}
  - {id: b, uses: x, config: {timeout: soon, fallback: f}}
  - {id: f, uses: x}
  - {id: c, uses: x}
edges:
  - {source: a, target: b, condition: '1 +'}
  - {source: b, target: a}
  - {source: a, target: f}
  - {source: a, target: no}
"), @r#"
    [duplicate-key] w.yaml:4:22: error: the key `uses` comes twice
    [bad-template] w.yaml:4:47: error: `nope` is not known here
      help: a context key is read by `context.nope`; also in scope are input, run.input and nodes.ID.output
    [bad-template] w.yaml:4:65: error: expected a value, but the expression ends
    [bad-template] w.yaml:4:73: error: this `{{` has no `}}`
      help: a literal `{{` is written `{{{{`
    [bad-duration] w.yaml:5:40: error: `timeout` is not a time
      help: a time is a number of milliseconds, or "250ms", "10s", "5m", "1h", "2d"
    [bad-expression] w.yaml:9:43: error: expected a value, but the expression ends
    [cycle] w.yaml:10:5: error: a cycle without a loop-controller: a > b > a
    [fallback-with-edge] w.yaml:11:5: error: `f` is a fallback, and no edge may lead to it
      help: a fallback runs when its node failed; give the edge a node of its own
    [unknown-target] w.yaml:12:25: error: there is no node `no`
    "#);
}

/// A node that is there twice by an alias is told where the alias stands.
#[test]
fn tells_of_a_repeated_alias_at_the_alias() {
    assert_snapshot!(check("id: w\nnodes:\n  - &n {id: a, uses: x}\n  - *n"), @"[duplicate-id] w.yaml:4:5: error: there are two nodes `a`");
}

/// A timeout of 0 and an empty fallback are none, and a node's own id counts, whatever it is filed under.
#[test]
fn reads_blueprints_as_they_stand() {
    assert_snapshot!(check("id: w\nnodes:\n  x: {id: a, uses: y, config: {timeout: 0, fallback: ''}}\n  b: {uses: z}\nedges: [{source: a, target: b}]"), @r#"
    [other-id] w.yaml:3:11: warning: the node `x` has another id, `a`, and goes by that
    {"edges":[{"source":"a","target":"b"}],"id":"w","nodes":[{"config":{"fallback":"","timeout":0},"id":"a","uses":"y"},{"id":"b","uses":"z"}]}
    "#);
    let workflow = parse("id: w\nnodes: [{id: a, uses: x, config: {timeout: 0, fallback: ''}}]");
    assert_eq!(
        workflow.nodes[0].config,
        crate::workflow::NodeConfig::default()
    );
}

#[test]
fn checks_fallbacks() {
    let config = |id: &str, fallback: &str| format!("id: {id}, config: {{fallback: {fallback}}}\n");
    let check = |nodes: &[String], edges| graph(&nodes.concat(), edges);
    let plain = |id: &str| format!("id: {id}\n");
    assert_snapshot!(check(&[config("A", "Nope"), plain("None")], ""), @"
    [unknown-fallback] w.yaml:3:41: error: there is no node `Nope`
      help: did you mean `None`?
    ");
    assert_snapshot!(check(&[config("A", "A")], ""), @"[self-fallback] w.yaml:3:41: error: a node cannot be its own fallback");
    assert_snapshot!(check(&[config("A", "F"), config("B", "F"), plain("F")], ""), @"
    [shared-fallback] w.yaml:4:41: error: `F` is the fallback of another node already
      help: give each node a fallback of its own
    ");
    assert_snapshot!(check(&[config("A", "B"), config("B", "A")], ""), @"[fallback-cycle] w.yaml:3:41: error: a fallback takes the place of its node, which makes a cycle here: A > B > A");
    assert_snapshot!(check(&[config("A", "F"), plain("F")], "F>A"), @"[fallback-cycle] w.yaml:6:5: error: a fallback takes the place of its node, which makes a cycle here: A > F > A");
    assert_snapshot!(check(&[config("A", "F"), plain("B"), plain("F")], "A>B B>F"), @"
    [fallback-cycle] w.yaml:3:41: error: a fallback takes the place of its node, which makes a cycle here: A > B > F > A
    [fallback-with-edge] w.yaml:8:5: error: `F` is a fallback, and no edge may lead to it
      help: a fallback runs when its node failed; give the edge a node of its own
    ");
    assert_snapshot!(check(&[config("A", "F"), plain("X"), plain("F")], "X>F"), @"
    [fallback-with-edge] w.yaml:7:5: error: `F` is a fallback, and no edge may lead to it
      help: a fallback runs when its node failed; give the edge a node of its own
    ");
    assert_snapshot!(check(&[config("A", "F"), config("F", "G"), plain("G"), plain("C")], "A>C F>C"), @r#"{"edges":[{"source":"A","target":"C"},{"source":"F","target":"C"}],"id":"w","nodes":[{"config":{"fallback":"F"},"id":"A","uses":"x"},{"config":{"fallback":"G"},"id":"F","uses":"x"},{"id":"G","uses":"x"},{"id":"C","uses":"x"}]}"#);
}

struct Catalog;

impl NodeCatalog for Catalog {
    fn contains(&self, uses: &str) -> bool {
        self.names().iter().any(|name| name == uses)
    }
    fn names(&self) -> Vec<String> {
        ["http", "sleep", "switch"].map(str::to_owned).to_vec()
    }
    fn actions(&self, uses: &str, params: &Value) -> Option<Vec<String>> {
        let only = params["action"].as_str().map(str::to_owned);
        (uses == "switch").then(|| only.into_iter().collect())
    }
    fn check_params(&self, uses: &str, params: &Value) -> Vec<ParamProblem> {
        let bad = ["for", "and"].into_iter();
        let bad = bad.filter(|name| params[*name].is_string());
        let problem = |name: &str| ParamProblem {
            path: vec![name.to_owned()],
            message: format!("`{name}` must be a number"),
        };
        bad.filter(|_| uses == "sleep").map(problem).collect()
    }
}

#[test]
fn asks_the_catalog_when_there_is_one() {
    let text = "id: w\nnodes:\n  - {id: a, uses: htpp}\n  - {id: b, uses: sleep, params: {for: long}}\n  - {id: c, uses: sleep, params: {for: a, and: b}}\n";
    let name = "w.yaml";
    let problems = parse_workflow(&Source { name, text }, Some(&Catalog)).unwrap_err();
    assert_snapshot!(problems.to_string(), @"
    w.yaml:3:19: error: there is no node type `htpp`
      help: did you mean `http`?
    w.yaml:4:40: error: `for` must be a number
    w.yaml:5:40: error: `for` must be a number
    w.yaml:5:48: error: `and` must be a number
    ");
    assert!(parse_workflow(&Source { name, text }, None).is_ok());
    assert_snapshot!(serde_json::to_string(&problems.0[0]).unwrap(), @r#"{"file":"w.yaml","line":3,"column":19,"path":"nodes[0].uses","severity":"error","code":"unknown-node-type","message":"there is no node type `htpp`","help":"did you mean `http`?"}"#);
}

/// Only of nodes whose actions are known, and not where a fallback may give another one.
#[test]
fn warns_of_edges_that_are_never_taken() {
    let text = "
id: w
nodes:
  - {id: a, uses: switch, params: {action: big}}
  - {id: b, uses: http}
  - {id: c, uses: switch, config: {fallback: f}}
  - {id: f, uses: http}
  - {id: z, uses: http}
edges:
  - {source: a, target: z, action: big}
  - {source: a, target: z}
  - {source: a, target: z, action: bigg}
  - {source: b, target: z, action: small}
  - {source: c, target: z, action: small}
";
    let name = "w.yaml";
    let (workflow, problems) = check_workflow(&Source { name, text }, Some(&Catalog));
    assert!(workflow.is_some());
    assert_snapshot!(problems.to_string(), @"
    w.yaml:12:36: warning: `a` never gives the action `bigg`
      help: did you mean `big`?
    ");
}

/// A mistake within a text of several lines is told at its line, where the lines are those of the file.
#[test]
fn finds_the_place_within_a_block() {
    let check = |block: &str| {
        let text =
            format!("id: w\nnodes:\n  - id: a\n    uses: x\n    params:\n      text: {block}");
        check_named("w.yaml", &text)
    };
    assert_snapshot!(check("|\n        one\n          ä {{ nope }}\n"), @"
    [bad-template] w.yaml:8:16: error: `nope` is not known here
      help: a context key is read by `context.nope`; also in scope are input, run.input and nodes.ID.output
    ");
    assert_snapshot!(check("|-\r\n\r\n        one\r\n\r\n        {{ nope }}\r\n"), @"
    [bad-template] w.yaml:10:12: error: `nope` is not known here
      help: a context key is read by `context.nope`; also in scope are input, run.input and nodes.ID.output
    ");
    assert_snapshot!(check(">\n        one\n        {{ nope }}\n"), @"
    [bad-template] w.yaml:7:9: error: `nope` is not known here
      help: a context key is read by `context.nope`; also in scope are input, run.input and nodes.ID.output
    ");
}

#[test]
fn names_paths_where_there_is_no_text() {
    let value = json!({ "id": "w", "nodes": [
        { "id": "a", "uses": "x", "config": { "fallback": "b" }, "params": { "list": [1, "{{ nope }}"] } },
        { "id": "c", "uses": "x", "inputs": { "k": 5 } },
    ], "edges": [{ "source": "a", "target": "c", "condition": "1 +" }] });
    let problems = workflow_from_json(&value, None).unwrap_err();
    assert_snapshot!(problems.to_string(), @"
    nodes[0].params.list[1]: error: `nope` is not known here
      help: a context key is read by `context.nope`; also in scope are input, run.input and nodes.ID.output
    nodes[0].config.fallback: error: there is no node `b`
    nodes[1].inputs.k: error: an input must be the name of where it comes from, not a number
    edges[0].condition: error: expected a value, but the expression ends
    ");
    assert!(
        problems
            .0
            .iter()
            .all(|problem| problem.line == 0 && problem.file.is_empty())
    );
}

#[test]
fn reads_what_json_may_hold() {
    let text = "{\"id\":\"w\",\t\"nodes\":[{\"id\":\"a\",\"uses\":\"x\",\"params\":{\"emoji\":\"\\uD83D\\uDE00\",\"slash\":\"\\/\",\"big\":18446744073709551615,\"huge\":1e300,\"neg\":-0.0,\"del\":\"\u{7f}\"}}]}";
    let parse_named = |name| parse_workflow(&Source { name, text }, None).unwrap();
    let workflow = parse_named("w.json");
    assert_eq!(parse_named("w.yaml"), workflow);
    assert_snapshot!(workflow.nodes[0].params.raw().to_string(), @r#"{"big":18446744073709551615,"del":"","emoji":"😀","huge":1e+300,"neg":-0.0,"slash":"/"}"#);
    let long = format!(
        "{{\"id\": \"w\", \"nodes\": [], \"metadata\": {{\"{}\": 1}}}}",
        "k".repeat(5000)
    );
    parse(&long);
    parse("\u{feff}{\"id\": \"w\", \"nodes\": []}");
}

#[test]
fn tells_where_json_breaks() {
    let check = |text| check_named("w.json", text);
    assert_snapshot!(check("{\"id\": \"w\",\n \"nodes\": [}"), @"[syntax] w.json:2:12: error: expected a JSON value");
    assert_snapshot!(check("{\"id\": \"w\""), @"[syntax] w.json:1:11: error: expected `,` or `}`");
    assert_snapshot!(check("{id: w}"), @"[syntax] w.json:1:2: error: expected a key in double quotes");
    assert_snapshot!(check("{\"id\": \"w\", \"nodes\": [],}"), @"[syntax] w.json:1:25: error: expected a key in double quotes");
    assert_snapshot!(check("{\"id\": 01}"), @"[syntax] w.json:1:8: error: this is not a JSON number, or it is too large");
    assert_snapshot!(check("{\"id\": 1e999}"), @"[syntax] w.json:1:8: error: this is not a JSON number, or it is too large");
    assert_snapshot!(check("{\"id\": \"\\ud83d\"}"), @"[syntax] w.json:1:8: error: this string has an escape that is not JSON");
    assert_snapshot!(check("{\"id\": \"a\nb\"}"), @"[syntax] w.json:1:10: error: a string holds no line breaks or control characters");
    assert_snapshot!(check("{\"id\": \"w\", \"nodes\": [], \"id\": \"v\"} x"), @"
    [duplicate-key] w.json:1:26: error: the key `id` comes twice
    [syntax] w.json:1:37: error: the JSON value ends before this
    ");
    assert_snapshot!(check(""), @"[syntax] w.json:1:1: error: the text ends where a value is expected");
}

#[test]
fn reads_yaml_as_the_core_schema_says() {
    let params = |yaml: &str| {
        let text = format!("id: w\nnodes:\n  - id: a\n    uses: x\n    params:\n      {yaml}");
        let name = "w.yaml";
        match parse_workflow(&Source { name, text: &text }, None) {
            Ok(workflow) => workflow.nodes[0].params.raw().to_string(),
            Err(problems) => problems.to_string(),
        }
    };
    assert_snapshot!(params("{a: ~, b: null, c: '', d: true, e: yes, f: 0x1F, g: 0o17, h: 012, i: +5, j: 1_000, k: 1.50, l: 1e3, m: -.5, n: 2026-01-02, o: 1.2.3, p: 'null', q: !!str 5, r: 18446744073709551615, s: e5, t: .}"), @r#"{"a":null,"b":null,"c":"","d":true,"e":"yes","f":31,"g":15,"h":12,"i":5,"j":"1_000","k":1.5,"l":1000.0,"m":-0.5,"n":"2026-01-02","o":"1.2.3","p":"null","q":"5","r":18446744073709551615,"s":"e5","t":"."}"#);
    assert_snapshot!(params("a: .inf"), @"w.yaml:6:10: error: JSON has no such number, or it is beyond 64 bits: put it in quotes");
    assert_snapshot!(params("a: 18446744073709551616"), @"w.yaml:6:10: error: JSON has no such number, or it is beyond 64 bits: put it in quotes");
    assert_snapshot!(params("a: !mine 5"), @"
    w.yaml:6:10: error: a tag of one's own has no meaning in a definition
      help: leave the `!…` out
    ");
    assert_snapshot!(params("? [a]\n      : b"), @"w.yaml:6:9: error: a key must be text");
    assert_snapshot!(params("a: {{ input.x }}"), @r#"
    w.yaml:6:11: error: a key must be text
      help: a template needs quotes around it: "{{ … }}"
    "#);
    assert_snapshot!(params("{1: a, true: b}"), @r#"{"1":"a","true":"b"}"#);
    assert_snapshot!(params("{a: 1, b: 2, a: 3}"), @"w.yaml:6:20: error: the key `a` comes twice");
    assert_snapshot!(params("a: &x {k: 1, l: [2]}\n      b: *x\n      c: {<<: *x, k: 3}\n      d: {<<: [*x, {m: 4}]}\n      e: {'<<': 5}"), @r#"{"a":{"k":1,"l":[2]},"b":{"k":1,"l":[2]},"c":{"k":3,"l":[2]},"d":{"k":1,"l":[2],"m":4},"e":{"<<":5}}"#);
    assert_snapshot!(params("a: &x [*x]"), @"w.yaml:6:14: error: this alias stands within what it names");
    assert_snapshot!(params("a: *nothing"), @"w.yaml:6:10: error: while parsing node, found unknown anchor");
    assert_snapshot!(params("a: {<<: 5}"), @"w.yaml:6:11: error: `<<` merges a mapping, or a list of them");
    assert_snapshot!(check("id: w\n---\nid: v"), @"[syntax] w.yaml:2:1: error: a file holds one definition");
    assert_snapshot!(check("# nothing"), @"[syntax] w.yaml:1:1: error: the file is empty");
    assert_snapshot!(check("id: [w\nnodes: x"), @"[syntax] w.yaml:2:6: error: illegal placement of ':' indicator");
    assert_snapshot!(check("id: w\n\tnodes: []"), @"[syntax] w.yaml:1:5: error: while scanning a plain scalar, found a tab");
}

#[test]
fn bounds_what_it_reads() {
    let too_long = " ".repeat(TEXT_BYTES_MAX + 1);
    assert_snapshot!(check(&too_long), @"[too-large] w.yaml:1:1: error: a definition has at most 4194304 bytes");
    for text in [
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        "- ".repeat(100_000),
        "{a: ".repeat(10_000),
    ] {
        assert!(!check(&text).is_empty());
        assert!(!check_named("w.json", &text).is_empty());
    }
    let nested = |levels: usize| {
        format!(
            "id: w\nnodes: []\nmetadata: {{a: {}{}}}",
            "[".repeat(levels),
            "]".repeat(levels)
        )
    };
    assert!(
        parse_workflow(
            &Source {
                name: "w",
                text: &nested(120)
            },
            None
        )
        .is_ok()
    );
    assert_snapshot!(check(&nested(130)), @"[too-deep] w.yaml:3:142: error: values are nested deeper than 128 levels");
    let deep = (0..500).fold(json!(1), |inner, _| json!([inner]));
    let problems =
        workflow_from_json(&json!({ "id": "w", "nodes": [], "metadata": deep }), None).unwrap_err();
    assert_snapshot!(problems.to_string(), @"error: values are nested deeper than 128 levels");
    // Ten times ten, ten levels: ten billion lols.
    let mut bomb = String::from("a0: &a0 [lol]\n");
    for level in 1..=10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "a{level}: &a{level} [{aliases}]").unwrap();
    }
    assert_snapshot!(check(&bomb), @"[too-large] w.yaml:7:20: error: aliases make this file too large");
    // More problems than anybody reads.
    let mut many = String::from("id: w\nnodes:\n");
    for ix in 0..1000 {
        writeln!(many, "  - {{id: n{ix}}}").unwrap();
    }
    let source = Source {
        name: "w",
        text: &many,
    };
    let (_, problems) = check_workflow(&source, None);
    assert_eq!(problems.0.len(), DIAGNOSTICS_MAX + 1);
    assert_snapshot!(problems.0[DIAGNOSTICS_MAX], @"error: there are more errors than these 100");
}

/// A chain of nodes with a condition on each edge, as values.
fn chain(count: usize) -> Value {
    let node = |ix| json!({ "id": format!("n{ix}"), "uses": "x" });
    let edge = |ix| {
        let (source, target) = (format!("n{}", ix - 1), format!("n{ix}"));
        json!({ "source": source, "target": target, "condition": "result.output.n > 3" })
    };
    let nodes: Vec<Value> = (0..count).map(node).collect();
    let edges: Vec<Value> = (1..count).map(edge).collect();
    json!({ "id": "w", "nodes": nodes, "edges": edges })
}

/// The same as a YAML file.
fn chain_text(count: usize) -> String {
    let mut text = String::from("id: w\nnodes:\n");
    for ix in 0..count {
        writeln!(text, "  - {{id: n{ix}, uses: x}}").unwrap();
    }
    text.push_str("edges:\n");
    for ix in 1..count {
        writeln!(
            text,
            "  - {{source: n{}, target: n{ix}, condition: result.output.n > 3}}",
            ix - 1
        )
        .unwrap();
    }
    text
}

#[test]
fn reads_as_many_nodes_as_it_says() {
    let nodes: Vec<Value> = (0..NODES_MAX)
        .map(|ix| json!({ "id": format!("n{ix}"), "uses": "x" }))
        .collect();
    let last = NODES_MAX - 1;
    let edges = json!([{ "source": "n0", "target": format!("n{last}") }]);
    let workflow =
        workflow_from_json(&json!({ "id": "w", "nodes": nodes, "edges": edges }), None).unwrap();
    let too_many = json!({ "id": "w", "nodes": vec![Value::Null; NODES_MAX + 1] });
    assert_eq!(workflow.edges[0].target, last);
    assert_snapshot!(workflow_from_json(&too_many, None).unwrap_err(), @"nodes: error: a workflow has at most 100000 nodes, not 100001");
    assert_eq!(
        parse(&chain_text(1000)),
        workflow_from_json(&chain(1000), None).unwrap()
    );
}

#[test]
#[ignore = "measures; run it with --release and --nocapture"]
fn takes_linear_time() {
    for count in [5_000, 10_000, 20_000] {
        let (value, yaml) = (chain(count), chain_text(count));
        let json = value.to_string();
        let time = |name, read: &dyn Fn()| {
            let start = std::time::Instant::now();
            read();
            println!("{count} nodes, {name}: {:?}", start.elapsed());
        };
        time("values", &|| {
            drop(workflow_from_json(&value, None).unwrap());
        });
        time("JSON", &|| drop(parse(&json)));
        time("YAML", &|| drop(parse(&yaml)));
    }
}

const SEED: &str = "id: w\nmetadata: &m {a: 1}\nnodes:\n  - {id: a, uses: x, params: {p: \"{{ input.x }}\"}, config: {fallback: f}}\n  - id: b\n    uses: 'y'\n    inputs: {k: a.b}\n    config: {<<: *m, timeout: 5s}\n  - {id: f, uses: z}\nedges:\n  - {source: a, target: b, condition: result.output > 1}\n";

proptest! {
    /// Whatever the text, reading it ends in a workflow or in problems, and a workflow reads back as itself.
    #[test]
    fn no_text_makes_it_panic(
        text in prop_oneof!["\\PC*", "[\\[\\]{}:,\"'\\\\&*!|>#%@ \\n\\t\\r\\-?<a-c0-9.]{0,60}"],
    ) {
        for name in ["w.yaml", "w.json"] {
            let (_, problems) = check_workflow(&Source { name, text: &text }, None);
            let _ = problems.to_string();
        }
    }

    #[test]
    fn no_damage_makes_it_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..6, "[\\[\\]{}:,\"'\\\\&*!|># \\n\\ta-f0-9.é]{0,4}"), 1..6),
        is_json in any::<bool>(),
    ) {
        let seed = if is_json { parse(SEED).definition.text().to_owned() } else { SEED.to_owned() };
        let mut letters: Vec<char> = seed.chars().collect();
        for (at, len, text) in cuts {
            let at = at.index(letters.len() + 1);
            let end = (at + len).min(letters.len());
            letters.splice(at..end, text.chars());
        }
        let text: String = letters.into_iter().collect();
        let (workflow, problems) = check_workflow(&Source { name: "w", text: &text }, None);
        let _ = problems.to_string();
        if let Some(workflow) = workflow {
            let again = workflow_from_json(workflow.definition.value(), None).unwrap();
            prop_assert_eq!(again.definition.text(), workflow.definition.text());
        }
    }
}
