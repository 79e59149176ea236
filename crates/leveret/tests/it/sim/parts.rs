//! Workflows put together of parts by a seed: nodes, forks, loops and batches within each other; and what each comes to, worked out without an engine.
//!
//! A value is a whole number, and no part makes it smaller, so that loops end.

use serde_json::{Value, json};

use super::chaos::World;

/// Parts of one workflow, at most.
const PARTS_MAX: u32 = 7;
/// A loop goes on below this.
const BOUND: i64 = 25;

#[derive(Debug)]
enum Part {
    Add(i64),
    Fork(Vec<Part>, Vec<Part>),
    Loop(Vec<Part>),
    /// With parameters of the scatter, and whether even items fail and are left out.
    Batch(Value, bool, Vec<Part>),
}

/// A workflow, and what it comes to.
pub(super) fn workflow(world: &mut World) -> (Value, Value) {
    let mut left = PARTS_MAX;
    let parts = parts(world, &mut left, 0);
    let start = i64::from(world.below(10));
    let mut build = Build::default();
    let first = build.node("set", &json!({ "output": start }));
    build.add(&first, &parts);
    let definition = json!({ "id": "parts", "nodes": build.nodes, "edges": build.edges });
    (definition, json!(value(start, &parts)))
}

fn parts(world: &mut World, left: &mut u32, depth: u32) -> Vec<Part> {
    let count = 1 + world.below(2);
    (0..count).map(|_| part(world, left, depth)).collect()
}

fn part(world: &mut World, left: &mut u32, depth: u32) -> Part {
    let kind = if *left == 0 || depth == 3 {
        0
    } else {
        world.below(6)
    };
    *left = left.saturating_sub(1);
    match kind {
        0 | 1 => Part::Add(i64::from(world.below(5))),
        2 => Part::Fork(parts(world, left, depth + 1), parts(world, left, depth + 1)),
        3 => Part::Loop(parts(world, left, depth + 1)),
        _ => {
            let mut params = json!({});
            if world.below(2) == 0 {
                params["concurrency"] = json!(1 + world.below(2));
            }
            if world.below(3) == 0 {
                params["chunkSize"] = json!(1 + world.below(3));
            }
            let skips = world.below(3) == 0;
            if skips {
                params["on_error"] = json!("skip");
            }
            Part::Batch(params, skips, parts(world, left, depth + 1))
        }
    }
}

/// The items of a batch that such a value has.
fn items(value: i64) -> Vec<i64> {
    (0..value % 5).map(|index| value % 7 + index).collect()
}

/// As [`items`], in a workflow.
const ITEMS: &str = "{{ [0, 1, 2, 3].filter(i, i < input % 5).map(i, input % 7 + i) }}";

fn value(start: i64, parts: &[Part]) -> i64 {
    let of = |value: i64, part: &Part| match part {
        Part::Add(more) => value + more,
        Part::Fork(one, other) => self::value(value, one) + self::value(value, other),
        Part::Loop(body) => {
            let mut value = value;
            while value < BOUND {
                value = self::value(value, body) + 9;
            }
            value
        }
        Part::Batch(_, skips, body) => {
            let items = items(value).into_iter();
            let kept = items.filter(|item| !skips || item % 2 == 1);
            value + kept.map(|item| self::value(item, body)).sum::<i64>()
        }
    };
    parts.iter().fold(start, of)
}

#[derive(Default)]
struct Build {
    nodes: Vec<Value>,
    edges: Vec<Value>,
}

impl Build {
    fn node(&mut self, uses: &str, params: &Value) -> String {
        let id = format!("n{}", self.nodes.len());
        self.nodes
            .push(json!({ "id": id, "uses": uses, "params": params }));
        id
    }

    fn edge(&mut self, source: &str, target: &str, action: Option<&str>) {
        let edge = json!({ "source": source, "target": target, "action": action });
        self.edges.push(edge);
    }

    fn behind(&mut self, before: &str, uses: &str, params: &Value) -> String {
        let node = self.node(uses, params);
        self.edge(before, &node, None);
        node
    }

    /// Adds parts behind a node; returns the last node, whose output is what they come to.
    fn add(&mut self, before: &str, parts: &[Part]) -> String {
        let add = |last: String, part: &Part| self.part(&last, part);
        parts.iter().fold(before.to_owned(), add)
    }

    fn part(&mut self, before: &str, part: &Part) -> String {
        match part {
            Part::Add(more) => {
                let params = json!({ "output": format!("{{{{ input + {more} }}}}") });
                self.behind(before, "set", &params)
            }
            Part::Fork(one, other) => {
                let fork = self.behind(before, "echo", &json!({}));
                let (one, other) = (self.add(&fork, one), self.add(&fork, other));
                let sum = format!("{{{{ nodes.{one}.output + nodes.{other}.output }}}}");
                let join = self.behind(&one, "set", &json!({ "output": sum }));
                self.edge(&other, &join, None);
                join
            }
            Part::Loop(body) => {
                let condition = json!({ "condition": format!("input < {BOUND}") });
                let controller = self.behind(before, "loop-controller", &condition);
                let first = self.node("echo", &json!({}));
                self.edge(&controller, &first, Some("continue"));
                let last = self.add(&first, body);
                let more = json!({ "output": "{{ input + 9 }}" });
                let last = self.behind(&last, "set", &more);
                self.edge(&last, &controller, None);
                let behind = self.node("echo", &json!({}));
                self.edge(&controller, &behind, Some("break"));
                behind
            }
            Part::Batch(params, skips, body) => {
                let entry = self.behind(before, "echo", &json!({}));
                let items = self.behind(&entry, "set", &json!({ "output": ITEMS }));
                let scatter = self.behind(&items, "batch-scatter", params);
                let item = if *skips {
                    "{{ item / (item % 2) }}"
                } else {
                    "{{ item }}"
                };
                let first = self.behind(&scatter, "set", &json!({ "output": item }));
                let last = self.add(&first, body);
                let gather = self.behind(&last, "batch-gather", &json!({}));
                let of_scatter = self.nodes.iter_mut().find(|node| node["id"] == *scatter);
                of_scatter.expect("it was added")["params"]["gatherNodeId"] = json!(gather);
                let sum = format!("{{{{ sum(input) + nodes.{entry}.output }}}}");
                self.behind(&gather, "set", &json!({ "output": sum }))
            }
        }
    }
}
