//! The decider against small graphs as text, and against random graphs, orders and duplicates.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::graph::{BatchShape, EdgeShape, NodeShape, OnError};

mod batches;

/// A run of a graph without a store: decides steps in the order in which the test ends them.
struct Run {
    graph: Graph,
    names: Vec<String>,
    joins: Joins,
    marks: Marks,
    ready: BTreeSet<Ready>,
    /// The items that ended, by their gathers.
    arrived: BTreeSet<Place>,
    log: Vec<String>,
    ends: usize,
}

impl Run {
    /// Parses `A>B B>J C>J J:any A!F`: edges, `any` joins, fallbacks; `S*G` is a batch, `S*G/2` one whose items run two at once, `S*G%2` one in
    /// chunks of two, `S*G?` one that goes on without the items that fail.
    fn new(text: &str) -> Run {
        let mut names: Vec<String> = Vec::new();
        let mut index = |name: &str| {
            names
                .iter()
                .position(|known| known == name)
                .unwrap_or_else(|| {
                    names.push(name.to_owned());
                    names.len() - 1
                })
        };
        let (mut edges, mut any, mut fallbacks) = (Vec::new(), Vec::new(), Vec::new());
        let mut batches = Vec::new();
        for word in text.split_whitespace() {
            if let Some((scatter, gather)) = word.split_once('*') {
                let end = gather.find(['/', '%', '?']).unwrap_or(gather.len());
                let (gather, how) = gather.split_at(end);
                let number = |mark| how.strip_prefix(mark).map(|of| of.parse().unwrap());
                let batch = BatchShape {
                    gather: index(gather),
                    on_error: if how == "?" {
                        OnError::Skip
                    } else {
                        OnError::Fail
                    },
                    concurrency: number('/'),
                    chunk: number('%'),
                };
                batches.push((index(scatter), batch));
            } else if let Some(at) = word.find(['>', '+', '-', '?']) {
                edges.push(EdgeShape {
                    source: index(&word[..at]),
                    target: index(&word[at + 1..]),
                    continues: &word[at..=at] == "+",
                    breaks: &word[at..=at] == "-",
                    on_failure: &word[at..=at] == "?",
                });
            } else if let Some((node, fallback)) = word.split_once('!') {
                fallbacks.push((index(node), index(fallback)));
            } else if let Some((node, _)) = word.split_once(':') {
                any.push(index(node));
            } else {
                index(word);
            }
        }
        let mut shapes = vec![NodeShape::default(); names.len()];
        for node in any {
            shapes[node].joins_any = true;
        }
        for (node, fallback) in fallbacks {
            shapes[node].fallback = Some(fallback);
        }
        for edge in &edges {
            if edge.continues {
                shapes[edge.source].role = Role::Loop;
            }
        }
        for (scatter, batch) in batches {
            shapes[scatter].role = Role::Scatter;
            shapes[scatter].batch = Some(batch);
            shapes[batch.gather].role = Role::Gather;
        }
        Run::of(Graph::of(shapes, edges), names)
    }

    fn of(graph: Graph, names: Vec<String>) -> Run {
        let mut run = Run {
            graph,
            names,
            joins: Joins::new(),
            marks: Marks::new(),
            ready: BTreeSet::new(),
            arrived: BTreeSet::new(),
            log: Vec::new(),
            ends: 0,
        };
        let start = decide_start(&run.graph);
        run.apply(start);
        run
    }

    /// What is ready, each item that begins by its first steps.
    fn opened(&self, ready: Vec<Ready>) -> Vec<Ready> {
        let open = |ready: Ready| {
            let Some((around, from, to)) = self.graph.opening(&ready.place) else {
                return vec![ready];
            };
            let items = (from..to).map(|index| around.item(index));
            let first = items.flat_map(|item| {
                let first = self.graph.first_steps(ready.place.node, &item);
                first.collect::<Vec<_>>()
            });
            let ready = |(place, edge)| Ready {
                place,
                via: Some(edge),
            };
            first.map(ready).collect()
        };
        ready.into_iter().flat_map(open).collect()
    }

    fn apply(&mut self, decision: Decision) {
        for ready in self.opened(decision.ready) {
            let name = self.name(&ready.place);
            assert!(!self.marks.contains_key(&ready.place));
            assert!(self.ready.insert(ready), "{name} is ready twice");
            self.log.push(format!("{name} ready"));
        }
        for Arrival { place, passed, .. } in decision.arrived {
            let name = self.name(&place);
            let passed = passed.map_or("ended".to_owned(), |passed| {
                format!("{passed:?}").to_lowercase()
            });
            assert!(self.arrived.insert(place), "{name} ended twice");
            self.log.push(format!("{name} {passed}"));
        }
        for (place, passed) in decision.passed {
            let name = self.name(&place);
            let before = self.marks.insert(place, Mark::Final);
            assert!(before.is_none(), "{name} passed twice");
            let passed = format!("{passed:?}").to_lowercase();
            self.log.push(format!("{name} {passed}"));
        }
        if decision.ended {
            self.ends += 1;
            self.log.push("end".to_owned());
        }
        let ready: Vec<Ready> = self.ready.iter().cloned().collect();
        assert_eq!(self.outstanding(), ready);
    }

    fn name(&self, Place { node, scope }: &Place) -> String {
        if scope.is_root() {
            return self.names[*node].clone();
        }
        format!("{}/{}", self.names[*node], scope.as_str())
    }

    /// What a reconciler would start again.
    fn outstanding(&self) -> Vec<Ready> {
        let starts = decide_start(&self.graph).ready;
        unfinished(&self.graph, starts, &self.marks, &self.joins)
    }

    fn ready_at(&self, node: NodeIx) -> Ready {
        let ready = self.ready.iter().find(|ready| ready.place.node == node);
        ready.expect("the node is ready").clone()
    }

    fn end(&mut self, node: NodeIx, ending: &Ending<'_>) {
        self.end_of(self.ready_at(node), ending);
    }

    fn end_of(&mut self, ready: Ready, ending: &Ending<'_>) {
        let node = ready.place.node;
        assert!(self.ready.remove(&ready));
        let failed = matches!(ending, Ending::Failed { .. });
        let mark = if failed { Mark::Failed } else { Mark::Final };
        let decision = decided(&self.graph, &ready.place, ending, &mut self.joins);
        if let Some(scope) = decision.closes.clone() {
            let before = self.marks.insert(Place { node, scope }, mark);
            assert!(before.is_none(), "{} ended twice", self.names[node]);
        }
        self.marks.insert(ready.place.clone(), mark);
        let made_ready = self.opened(decision.ready.clone());
        self.apply(decision);
        // Whoever goes on from this step alone, finds what it made ready.
        let behind = unfinished(&self.graph, [ready], &self.marks, &self.joins);
        for ready in made_ready {
            assert!(behind.contains(&ready), "{}", self.name(&ready.place));
        }
    }
}

/// Decides a step; joins that are not there are fresh.
fn decided(graph: &Graph, place: &Place, ending: &Ending<'_>, joins: &mut Joins) -> Decision {
    loop {
        match decide(graph, place, ending, joins) {
            Ok(decision) => return decision,
            Err(MissingJoins(missing)) => {
                for join in missing {
                    let state = fresh_join(graph, &join);
                    assert!(joins.insert(join, state).is_none());
                }
            }
        }
    }
}

/// Runs `steps` such as `A A:B S!` (`A` takes all edges, `A:B` only that to B, `S!` fails, `S!!` fails fatally, `S=3` has three items) and
/// returns what was decided. Of several steps of a node, the first ends.
fn trace(graph: &str, steps: &str) -> String {
    let mut run = Run::new(graph);
    for step in steps.split_whitespace() {
        let name = step.split([':', '!', '=']).next().unwrap();
        let node = run.names.iter().position(|known| known == name).unwrap();
        let ending = match step[name.len()..].split_at_checked(1) {
            None => Ending::Completed {
                taken: taken_of(&run.graph, node).collect(),
            },
            Some(("!", fatal)) => Ending::Failed {
                fall_back: fatal.is_empty(),
            },
            Some(("=", items)) => Ending::Scattered {
                items: items.parse().unwrap(),
            },
            Some((_, targets)) => Ending::Completed {
                taken: taken_of(&run.graph, node)
                    .filter(|&edge| {
                        targets
                            .split(',')
                            .any(|t| t == run.names[run.graph.edge(edge).target])
                    })
                    .collect(),
            },
        };
        run.log.push(format!("[{step}]"));
        run.end(node, &ending);
    }
    run.log.join(" ")
}

/// The edges that a result may take.
fn taken_of(graph: &Graph, node: NodeIx) -> impl Iterator<Item = EdgeIx> {
    graph
        .routed(node)
        .filter(|&edge| !graph.is_on_failure(edge))
}

#[test]
fn chains_and_diamonds() {
    insta::assert_snapshot!(trace("A>B B>C", "A B C"), @"A ready [A] B ready [B] C ready [C] end");
    insta::assert_snapshot!(trace("A>C B>C", "B A C"), @"A ready B ready [B] [A] C ready [C] end");
    insta::assert_snapshot!(trace("S>A S>B A>J B>J", "S B A J"), @"S ready [S] A ready B ready [B] [A] J ready [J] end");
    insta::assert_snapshot!(trace("A>B B>C A>C", "A B C"), @"A ready [A] B ready [B] C ready [C] end");
    insta::assert_snapshot!(trace("A>B C>D", "A C B D"), @"A ready C ready [A] B ready [C] D ready [B] [D] end");
    insta::assert_snapshot!(trace("", ""), @"end");
}

/// Of the edges that one step takes to the same node, the last in the definition hands over, also to an `any` join, which the first makes
/// ready. Edges that come after a join ran hand over nothing.
#[test]
fn the_last_edge_that_a_step_takes_hands_over() {
    let via = |graph: &str, nodes: &[&str], of: &str| {
        let mut run = Run::new(graph);
        for name in nodes {
            let node = run.names.iter().position(|known| known == name).unwrap();
            let taken = run.graph.routed(node).collect();
            run.end(node, &Ending::Completed { taken });
        }
        let node = run.names.iter().position(|known| known == of).unwrap();
        let ready = run.ready_at(node);
        assert_eq!(run.outstanding(), std::slice::from_ref(&ready));
        ready.via
    };
    assert_eq!(via("A>B A>B", &["A"], "B"), Some(1));
    assert_eq!(via("A>B A>B B:any", &["A"], "B"), Some(1));
    assert_eq!(via("A>C B>C A>C", &["A", "B"], "C"), Some(1));
    assert_eq!(via("A>C B>C A>C", &["B", "A"], "C"), Some(2));
    assert_eq!(via("A>C A>C B>C C:any", &["A", "B"], "C"), Some(1));
}

#[test]
fn orders_nodes_behind_all_that_lead_to_them() {
    let order = |text: &str| {
        let run = Run::new(text);
        let order = run.graph.order();
        let mut names = run.names;
        names.sort_by_key(|name| {
            let run = Run::new(text);
            order[run.names.iter().position(|known| known == name).unwrap()]
        });
        names.join(" ")
    };
    assert_eq!(order("C>B B>A"), "C B A");
    assert_eq!(order("B>A B>A C>B A>D C>D"), "C B A D");
    assert_eq!(order("A>C A!F"), "A F C");
    assert_eq!(order("A>C F>D A!F F!G D>C"), "A F G D C");
    assert_eq!(order(""), "");
}

#[test]
fn skips_what_no_edge_takes() {
    insta::assert_snapshot!(trace("A>B A>C", "A:B B"), @"A ready [A:B] B ready C skipped [B] end");
    insta::assert_snapshot!(trace("A>B B>C", "A:"), @"A ready [A:] B skipped C skipped end");
    insta::assert_snapshot!(trace("A>B A>C B>D C>D", "A:B B D"), @"A ready [A:B] B ready C skipped [B] D ready [D] end");
    insta::assert_snapshot!(trace("A>B A>C B>D C>D D:any", "A:B B D"), @"A ready [A:B] B ready C skipped [B] D ready [D] end");
    insta::assert_snapshot!(trace("A>B A>C B>D C>D", "A:"), @"A ready [A:] B skipped C skipped D skipped end");
}

#[test]
fn an_any_join_runs_once_and_the_run_waits_for_the_others() {
    insta::assert_snapshot!(trace("S>A S>B S>C A>J B>J C>J J:any", "S B J A C"), @"S ready [S] A ready B ready C ready [B] J ready [J] [A] [C] end");
    insta::assert_snapshot!(trace("S>A A>J S>B B>X X>J J>K J:any", "S A J K B X"), @"S ready [S] A ready B ready [A] J ready [J] K ready [K] [B] X ready [X] end");
}

#[test]
fn failures_cancel_what_needs_them_and_nothing_else() {
    insta::assert_snapshot!(trace("A>C", "A!"), @"A ready [A!] C cancelled end");
    insta::assert_snapshot!(trace("S>A S>B B>X A>J X>J", "S A! B X"), @"S ready [S] A ready B ready [A!] [B] X ready [X] J cancelled end");
    insta::assert_snapshot!(trace("S>A S>B A>J B>J J:any", "S A! B J"), @"S ready [S] A ready B ready [A!] [B] J ready [J] end");
    insta::assert_snapshot!(trace("S>A S>B A>J B>J J:any", "S B J A!"), @"S ready [S] A ready B ready [B] J ready [J] [A!] end");
    insta::assert_snapshot!(trace("S>A S>B A>J B>J J:any", "S B! A!"), @"S ready [S] A ready B ready [B!] [A!] J cancelled end");
}

#[test]
fn a_fallback_takes_the_place_of_what_failed() {
    insta::assert_snapshot!(trace("A>C A!F", "A! F C"), @"A ready [A!] F ready [F] C ready [C] end");
    insta::assert_snapshot!(trace("A>C F>C A!F", "A! F C"), @"A ready [A!] F ready [F] C ready [C] end");
    insta::assert_snapshot!(trace("A>C A!F", "A C"), @"A ready [A] C ready F skipped [C] end");
    insta::assert_snapshot!(trace("A>C F>C A!F", "A C"), @"A ready [A] C ready F skipped [C] end");
    insta::assert_snapshot!(trace("A>C A!F", "A! F!"), @"A ready [A!] F ready [F!] C cancelled end");
    insta::assert_snapshot!(trace("A>C A!F", "A!!"), @"A ready [A!!] C cancelled F skipped end");
    insta::assert_snapshot!(trace("A>C A!F F!G", "A! F! G C"), @"A ready [A!] F ready [F!] G ready [G] C ready [C] end");
    insta::assert_snapshot!(trace("A A!F", "A! F"), @"A ready [A!] F ready [F] end");
    insta::assert_snapshot!(trace("S>A A>C A!F", "S:"), @"S ready [S:] A skipped C skipped F skipped end");
}

#[test]
fn an_edge_on_failure_goes_on() {
    insta::assert_snapshot!(trace("A>B A?C", "A! C"), @"A ready [A!] C ready B skipped [C] end");
    insta::assert_snapshot!(trace("A>B A?C", "A B"), @"A ready [A] B ready C skipped [B] end");
    insta::assert_snapshot!(trace("A>B A?C", "A!!"), @"A ready [A!!] B cancelled C cancelled end");
    insta::assert_snapshot!(trace("A?C", "A"), @"A ready [A] C skipped end");
    insta::assert_snapshot!(trace("A>J A?C C>J J:any", "A! C J"), @"A ready [A!] C ready [C] J ready [J] end");
    insta::assert_snapshot!(trace("A>J A?J", "A! J"), @"A ready [A!] J ready [J] end");
    insta::assert_snapshot!(trace("S>A S>B A>J B>J A?C", "S A! B C J"), @"S ready [S] A ready B ready [A!] C ready [B] J ready [C] [J] end");
    insta::assert_snapshot!(trace("A>B A?C A!F", "A! F! C"), @"A ready [A!] F ready [F!] C ready B skipped [C] end");
    insta::assert_snapshot!(trace("A>B A?C A!F", "A! F B"), @"A ready [A!] F ready [F] B ready C skipped [B] end");
    insta::assert_snapshot!(trace("A>B A?C A!F F?D", "A! F! C D"), @"A ready [A!] F ready [F!] C ready D ready B skipped [C] [D] end");
    insta::assert_snapshot!(trace("A?B B?C", "A! B! C"), @"A ready [A!] B ready [B!] C ready [C] end");
    insta::assert_snapshot!(trace("Z>A A>B A?C", "Z!"), @"Z ready [Z!] A cancelled B cancelled C cancelled end");
    insta::assert_snapshot!(trace("L+B B>L B?C C>L L-E L:any", "L:B B! C L:E E"), @"L/loop#1 ready [L:B] B/loop#1 ready [B!] C/loop#1 ready [C] L/loop#2 ready [L:E] E ready [E] end");
}

#[test]
fn a_loop_goes_on_until_it_breaks() {
    insta::assert_snapshot!(trace("A>L L+B B>L L-C", "A L:B B L:B B L:C C"), @"A ready [A] L/loop#1 ready [L:B] B/loop#1 ready [B] L/loop#2 ready [L:B] B/loop#2 ready [B] L/loop#3 ready [L:C] C ready [C] end");
    insta::assert_snapshot!(trace("A>L L+B B>L L-C", "A L:C C"), @"A ready [A] L/loop#1 ready [L:C] C ready [C] end");
    insta::assert_snapshot!(trace("L+B B>L", "L:B B L:"), @"L/loop#1 ready [L:B] B/loop#1 ready [B] L/loop#2 ready [L:] end");
    insta::assert_snapshot!(trace("L+L L-C", "L:L L:L L:C C"), @"L/loop#1 ready [L:L] L/loop#2 ready [L:L] L/loop#3 ready [L:C] C ready [C] end");
}

#[test]
fn a_pass_waits_for_all_that_is_in_it() {
    insta::assert_snapshot!(trace("L+B B>C B>D C>L D>L L-E", "L:B B C D L:E E"), @"L/loop#1 ready [L:B] B/loop#1 ready [B] C/loop#1 ready D/loop#1 ready [C] [D] L/loop#2 ready [L:E] E ready [E] end");
    insta::assert_snapshot!(trace("L+B B>D B>L L-E", "L:B B D L:E E"), @"L/loop#1 ready [L:B] B/loop#1 ready [B] D/loop#1 ready [D] L/loop#2 ready [L:E] E ready [E] end");
    insta::assert_snapshot!(trace("L+B B>C B>D D>X C>J X>J J:any J>L L-E", "L:B B C J D X L:E E"), @"L/loop#1 ready [L:B] B/loop#1 ready [B] C/loop#1 ready D/loop#1 ready [C] J/loop#1 ready [J] [D] X/loop#1 ready [X] L/loop#2 ready [L:E] E ready [E] end");
}

#[test]
fn loops_are_nested() {
    insta::assert_snapshot!(
        trace("A>L L+M M+B B>M M-L L-C", "A L:M M:B B M:L L:M M:L L:C C"),
        @"A ready [A] L/loop#1 ready [L:M] M/loop#1/loop#1 ready [M:B] B/loop#1/loop#1 ready [B] M/loop#1/loop#2 ready [M:L] L/loop#2 ready [L:M] M/loop#2/loop#1 ready [M:L] L/loop#3 ready [L:C] C ready [C] end"
    );
    insta::assert_snapshot!(trace("L+B B>L L-M M+C C>M", "L:B B L:M M:C C M:"), @"L/loop#1 ready [L:B] B/loop#1 ready [B] L/loop#2 ready [L:M] M/loop#1 ready [M:C] C/loop#1 ready [C] M/loop#2 ready [M:] end");
}

#[test]
fn failures_and_dead_ends_end_a_loop() {
    insta::assert_snapshot!(trace("A>L L+B B>L L-C", "A L:B B!"), @"A ready [A] L/loop#1 ready [L:B] B/loop#1 ready [B!] L cancelled C cancelled end");
    insta::assert_snapshot!(trace("A>L L+B B>L L-C", "A L:B B:"), @"A ready [A] L/loop#1 ready [L:B] B/loop#1 ready [B:] L skipped C skipped end");
    insta::assert_snapshot!(trace("A>L L+B B>L L-C", "A L!"), @"A ready [A] L/loop#1 ready [L!] C cancelled end");
    insta::assert_snapshot!(trace("A>L L+B B>L L-C", "A:"), @"A ready [A:] L skipped C skipped end");
    insta::assert_snapshot!(trace("A>L A>X L+B B>L L-C X>C", "A:X X C"), @"A ready [A:X] X ready L skipped [X] C ready [C] end");
    insta::assert_snapshot!(trace("L+B B>C B>D C>L D>L L-E", "L:B B C! D"), @"L/loop#1 ready [L:B] B/loop#1 ready [B] C/loop#1 ready D/loop#1 ready [C!] [D] L cancelled E cancelled end");
    insta::assert_snapshot!(trace("L+B B>C B>D C>L D>L L-E L:any", "L:B B C! D L:E E"), @"L/loop#1 ready [L:B] B/loop#1 ready [B] C/loop#1 ready D/loop#1 ready [C!] [D] L/loop#2 ready [L:E] E ready [E] end");
    insta::assert_snapshot!(trace("L+B B>L B!F L-E", "L:B B! F L:E E"), @"L/loop#1 ready [L:B] B/loop#1 ready [B!] F/loop#1 ready [F] L/loop#2 ready [L:E] E ready [E] end");
}

/// The edges that lead back are another join than those that lead to the loop.
#[test]
fn a_loop_joins_what_leads_to_it() {
    insta::assert_snapshot!(trace("A>L X>L L+B B>L L-C", "A X L:B B L:C C"), @"A ready X ready [A] [X] L/loop#1 ready [L:B] B/loop#1 ready [B] L/loop#2 ready [L:C] C ready [C] end");
    insta::assert_snapshot!(trace("A>L X>L L+B B>L L-C L:any", "A L:B B L:C C X"), @"A ready X ready [A] L/loop#1 ready [L:B] B/loop#1 ready [B] L/loop#2 ready [L:C] C ready [C] [X] end");
}

#[test]
fn asks_for_the_joins_it_needs() {
    let run = Run::new("A>C B>C");
    let ending = Ending::Completed {
        taken: vec![0].into(),
    };
    let mut joins = Joins::new();
    assert_eq!(
        decide(&run.graph, &Place::root(0), &ending, &mut joins),
        Err(MissingJoins(vec![JoinPoint::Place(Place::root(1))]))
    );
    assert!(joins.is_empty());
}

#[test]
fn join_states_print_and_parse() {
    let mut state = Edges::new(3);
    assert_eq!(state.to_string(), "...");
    state.resolve(1, Resolution::Taken, false);
    assert_eq!(state.to_string(), ".t.,1");
    state.fire(Wait::ForOne);
    state.resolve(0, Resolution::Failed, true);
    assert_eq!(state.to_string(), "ft.!1");
    let parsed: JoinState = "ft.!1".parse().unwrap();
    assert_eq!(parsed, JoinState::Edges(state.clone()));
    state.begins = Some((17, 19));
    assert_eq!(state.to_string(), "ft.!1+17..19");
    let parsed: JoinState = "ft.!1+17..19".parse().unwrap();
    assert_eq!(parsed, JoinState::Edges(state));
    for bad in ["x", "t!7", "t,x", "t!!", "t!0+1", "t!0+1..x"] {
        assert!(bad.parse::<JoinState>().is_err(), "{bad}");
    }
}

#[derive(Clone, Debug)]
struct Random {
    nodes: usize,
    edges: Vec<(usize, usize)>,
    any: Vec<bool>,
    fallback: Vec<bool>,
    on_failure: Vec<bool>,
    choices: Vec<u16>,
}

fn random() -> impl Strategy<Value = Random> {
    (1usize..9).prop_flat_map(|nodes| {
        let edges = prop::collection::vec((0..nodes, 0..nodes), 0..16).prop_map(|edges| {
            edges
                .into_iter()
                .filter(|(a, b)| a != b)
                .map(|(a, b)| (a.min(b), a.max(b)))
                .collect()
        });
        let flags = || prop::collection::vec(any::<bool>(), nodes);
        (
            Just(nodes),
            edges,
            flags(),
            flags(),
            prop::collection::vec(prop::bool::weighted(0.2), 16),
            prop::collection::vec(any::<u16>(), 64),
        )
            .prop_map(
                |(nodes, edges, any, fallback, on_failure, choices)| Random {
                    nodes,
                    edges,
                    any,
                    fallback,
                    on_failure,
                    choices,
                },
            )
    })
}

/// The random graph: nodes in order, and after them a fallback node for each that has one.
fn build(random: &Random) -> Run {
    let mut shapes: Vec<NodeShape> = random
        .any
        .iter()
        .map(|&joins_any| NodeShape {
            joins_any,
            ..NodeShape::default()
        })
        .collect();
    for node in 0..random.nodes {
        if random.fallback[node] {
            shapes[node].fallback = Some(shapes.len());
            shapes.push(NodeShape::default());
        }
    }
    let names = (0..shapes.len()).map(|node| format!("n{node}")).collect();
    let edges = random.edges.iter().zip(&random.on_failure);
    let edges = edges.map(|(&(source, target), &on_failure)| EdgeShape {
        source,
        target,
        on_failure,
        ..EdgeShape::default()
    });
    Run::of(Graph::of(shapes, edges.collect()), names)
}

proptest! {
    /// Whatever the order, the failures and the routes: every node is ready or passed exactly once, the run ends exactly once, at its
    /// last step, and the steps that are outstanding follow from what is recorded.
    #[test]
    fn every_run_ends_once(random in random()) {
        let mut run = build(&random);
        let mut choices = random.choices.iter().cycle().map(|&c| usize::from(c));
        let mut next = || choices.next().unwrap();
        while !run.ready.is_empty() {
            prop_assert_eq!(run.ends, 0);
            let ready = run.ready.iter().nth(next() % run.ready.len()).unwrap();
            let node = ready.place.node;
            let ending = match next() % 4 {
                0 => Ending::Failed { fall_back: next() % 3 > 0 },
                _ => Ending::Completed { taken: taken_of(&run.graph, node).filter(|_| next() % 3 > 0).collect() },
            };
            run.end(node, &ending);
        }
        prop_assert_eq!(run.ends, 1);
        prop_assert_eq!(run.marks.len(), run.graph.node_count());
    }

    /// Deciding a step a second time changes nothing: resolutions are a set.
    #[test]
    fn a_duplicate_changes_nothing(random in random()) {
        let mut run = build(&random);
        while let Some(ready) = run.ready.first().cloned() {
            let ending = Ending::Completed { taken: taken_of(&run.graph, ready.place.node).collect() };
            run.end(ready.place.node, &ending);
            let mut again = run.joins.clone();
            let decision = decide(&run.graph, &ready.place, &ending, &mut again).unwrap();
            prop_assert_eq!(&again, &run.joins);
            for repeated in decision.ready {
                let single = run.graph.incoming(repeated.place.node).len() == 1;
                prop_assert!(single, "a join fired twice");
            }
        }
    }
}

/// One node with very many edges; a decider whose work grows with their square takes minutes for it.
#[test]
fn very_many_edges_are_decided_at_once() {
    const WIDTH: usize = 200_000;
    // Two edges to each node: all of these are joins.
    let edges: Vec<_> = (0..2 * WIDTH).map(|edge| (0, 1 + edge / 2)).collect();
    let graph = Graph::new(vec![NodeShape::default(); 1 + WIDTH], &edges);
    // Not in the order of the edges, and without the last one.
    let taken: Vec<EdgeIx> = (0..2 * WIDTH - 1).rev().collect();
    let ending = Ending::Completed {
        taken: taken.into(),
    };
    let mut joins = Joins::new();
    let first = Place::root(0);
    let MissingJoins(missing) = decide(&graph, &first, &ending, &mut joins).unwrap_err();
    assert_eq!(missing.len(), WIDTH);
    for join in missing {
        let state = fresh_join(&graph, &join);
        joins.insert(join, state);
    }
    let end = JoinPoint::End;
    let state = fresh_join(&graph, &end);
    joins.insert(end, state);
    let decision = decide(&graph, &first, &ending, &mut joins).unwrap();
    assert_eq!(decision.ready.len(), WIDTH);
    let resolved = |node| joins[&JoinPoint::Place(Place::root(node))].to_string();
    assert_eq!(
        (resolved(1), resolved(WIDTH)),
        ("tt!1".to_owned(), "tu!0".to_owned())
    );
}
