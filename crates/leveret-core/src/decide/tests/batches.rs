//! Batches: small ones as text, and random workflows of loops, batches, branches and fallbacks.

use std::collections::BTreeMap;

use super::*;

#[test]
fn a_batch_ends_with_its_last_item() {
    insta::assert_snapshot!(trace("A>S S*G S>B B>G G>C", "A S=2 B B G C"), @"A ready [A] S ready [S=2] B/each[0] ready B/each[1] ready [B] G/each[0] ended [B] G ready G/each[1] ended [G] C ready [C] end");
    insta::assert_snapshot!(trace("A>S S*G S>B B>G G>C", "A S=0 G C"), @"A ready [A] S ready [S=0] G ready [G] C ready [C] end");
    insta::assert_snapshot!(trace("S*G S>B B>C C>G", "S=2 B C B C G"), @"S ready [S=2] B/each[0] ready B/each[1] ready [B] C/each[0] ready [C] G/each[0] ended [B] C/each[1] ready [C] G ready G/each[1] ended [G] end");
    insta::assert_snapshot!(trace("S*G S>B S>C B>G C>G", "S=1 B C G"), @"S ready [S=1] B/each[0] ready C/each[0] ready [B] [C] G ready G/each[0] ended [G] end");
    insta::assert_snapshot!(trace("S*G S>B B>G B>D", "S=1 B D G"), @"S ready [S=1] B/each[0] ready [B] D/each[0] ready [D] G ready G/each[0] ended [G] end");
}

#[test]
fn items_are_left_out_and_fail() {
    insta::assert_snapshot!(trace("S*G S>B B>G G>C", "S=2 B: B G C"), @"S ready [S=2] B/each[0] ready B/each[1] ready [B:] G/each[0] skipped [B] G ready G/each[1] ended [G] C ready [C] end");
    insta::assert_snapshot!(trace("S*G S>B B>G G>C", "S=2 B! B"), @"S ready [S=2] B/each[0] ready B/each[1] ready [B!] G/each[0] cancelled [B] G/each[1] ended G cancelled C cancelled end");
    insta::assert_snapshot!(trace("S*G? S>B B>G G>C", "S=2 B! B! G C"), @"S ready [S=2] B/each[0] ready B/each[1] ready [B!] G/each[0] cancelled [B!] G ready G/each[1] cancelled [G] C ready [C] end");
    insta::assert_snapshot!(trace("S*G S>B B>G B!F G>C", "S=1 B! F G C"), @"S ready [S=1] B/each[0] ready [B!] F/each[0] ready [F] G ready G/each[0] ended [G] C ready [C] end");
    insta::assert_snapshot!(trace("S*G S>B S>C B>G C>G", "S=1 B! C"), @"S ready [S=1] B/each[0] ready C/each[0] ready [B!] [C] G/each[0] cancelled G cancelled end");
    insta::assert_snapshot!(trace("S*G S>B S>C B>G C>G G:any", "S=1 B! C G"), @"S ready [S=1] B/each[0] ready C/each[0] ready [B!] [C] G ready G/each[0] ended [G] end");
}

#[test]
fn the_end_of_an_item_lets_others_begin() {
    insta::assert_snapshot!(trace("S*G/1 S>B B>G", "S=3 B B B G"), @"S ready [S=3] B/each[0] ready [B] B/each[1] ready G/each[0] ended [B] B/each[2] ready G/each[1] ended [B] G ready G/each[2] ended [G] end");
    insta::assert_snapshot!(trace("S*G%2 S>B B>G", "S=5 B B B B B G"), @"S ready [S=5] B/each[0] ready B/each[1] ready [B] G/each[0] ended [B] B/each[2] ready B/each[3] ready G/each[1] ended [B] G/each[2] ended [B] B/each[4] ready G/each[3] ended [B] G ready G/each[4] ended [G] end");
    insta::assert_snapshot!(trace("S*G/1 S>B B>G", "S=3 B!"), @"S ready [S=3] B/each[0] ready [B!] G/each[0] cancelled G cancelled end");
}

#[test]
fn a_batch_that_does_not_begin_passes_its_gather() {
    insta::assert_snapshot!(trace("S*G S>B B>G G>C", "S!"), @"S ready [S!] G cancelled C cancelled end");
    insta::assert_snapshot!(trace("A>S S*G S>B B>G G>C", "A:"), @"A ready [A:] S skipped G skipped C skipped end");
    insta::assert_snapshot!(trace("A>S S*G S>B B>G G>C A>X X>C", "A:X X C"), @"A ready [A:X] X ready S skipped G skipped [X] C ready [C] end");
}

#[test]
fn batches_and_loops_are_nested() {
    insta::assert_snapshot!(trace("S*G T*H S>T T>B B>H H>G", "S=2 T=1 T=0 B H H G"), @"S ready [S=2] T/each[0] ready T/each[1] ready [T=1] B/each[0]/each[0] ready [T=0] H/each[1] ready [B] H/each[0] ready H/each[0]/each[0] ended [H] G/each[0] ended [H] G ready G/each[1] ended [G] end");
    insta::assert_snapshot!(trace("S*G S>L L+B B>L L-G", "S=1 L:B B L:G G"), @"S ready [S=1] L/each[0]/loop#1 ready [L:B] B/each[0]/loop#1 ready [B] L/each[0]/loop#2 ready [L:G] G ready G/each[0] ended [G] end");
    insta::assert_snapshot!(trace("L+S S*G S>B B>G G>L L-C", "L:S S=1 B G L:C C"), @"L/loop#1 ready [L:S] S/loop#1 ready [S=1] B/loop#1/each[0] ready [B] G/loop#1 ready G/loop#1/each[0] ended [G] L/loop#2 ready [L:C] C ready [C] end");
    insta::assert_snapshot!(trace("S*G? T*H S>T T>B B>H H>G", "S=1 T=1 B! G"), @"S ready [S=1] T/each[0] ready [T=1] B/each[0]/each[0] ready [B!] G ready H/each[0]/each[0] cancelled G/each[0] cancelled H/each[0] cancelled [G] end");
}

#[test]
fn so_many_items_may_have_begun() {
    let check = |concurrency, chunk, expect: [u64; 8]| {
        let batch = BatchShape {
            gather: 0,
            on_error: OnError::Fail,
            concurrency,
            chunk,
        };
        let may = (0..8).map(|ended| batch.may_begin(7, ended, 0));
        assert_eq!(may.collect::<Vec<_>>(), expect);
    };
    check(None, None, [7; 8]);
    check(Some(2), None, [2, 3, 4, 5, 6, 7, 7, 7]);
    check(None, Some(3), [3, 3, 3, 6, 6, 6, 7, 7]);
    check(Some(2), Some(3), [2, 3, 3, 5, 6, 6, 7, 7]);
    check(Some(u64::MAX), Some(u64::MAX), [7; 8]);
}

/// A workflow put together of parts.
#[derive(Clone, Debug)]
enum Part {
    Node { guarded: bool },
    Fork(Vec<Vec<Part>>),
    Loop(Vec<Part>),
    Batch(How, Vec<Part>),
}

#[derive(Clone, Copy, Debug)]
struct How {
    tolerant: bool,
    concurrency: Option<u64>,
    chunk: Option<u64>,
}

fn how() -> impl Strategy<Value = How> {
    let limit = || prop::option::of(1u64..3);
    (any::<bool>(), limit(), limit()).prop_map(|(tolerant, concurrency, chunk)| How {
        tolerant,
        concurrency,
        chunk,
    })
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let leaf = any::<bool>().prop_map(|guarded| Part::Node { guarded });
    let part = leaf.prop_recursive(4, 16, 3, |inner| {
        let some = || prop::collection::vec(inner.clone(), 1..3);
        prop_oneof![
            2 => any::<bool>().prop_map(|guarded| Part::Node { guarded }),
            1 => prop::collection::vec(some(), 2..3).prop_map(Part::Fork),
            1 => some().prop_map(Part::Loop),
            2 => (how(), some()).prop_map(|(how, inner)| Part::Batch(how, inner)),
        ]
    });
    prop::collection::vec(part, 1..4)
}

#[derive(Default)]
struct Build {
    shapes: Vec<NodeShape>,
    edges: Vec<EdgeShape>,
}

impl Build {
    fn node(&mut self) -> NodeIx {
        self.shapes.push(NodeShape::default());
        self.shapes.len() - 1
    }

    fn edge(&mut self, source: NodeIx, target: NodeIx) -> &mut EdgeShape {
        self.edges.push(EdgeShape {
            source,
            target,
            ..EdgeShape::default()
        });
        self.edges.last_mut().unwrap()
    }

    /// Adds parts behind a node; returns the last one.
    fn add(&mut self, mut last: NodeIx, parts: &[Part]) -> NodeIx {
        for part in parts {
            last = self.part(last, part);
        }
        last
    }

    fn part(&mut self, before: NodeIx, part: &Part) -> NodeIx {
        let first = self.node();
        self.edge(before, first);
        match part {
            Part::Node { guarded } => {
                if *guarded {
                    self.shapes[first].fallback = Some(self.node());
                }
                first
            }
            Part::Fork(branches) => {
                let ends: Vec<NodeIx> = branches
                    .iter()
                    .map(|branch| self.add(first, branch))
                    .collect();
                let join = self.node();
                for end in ends {
                    self.edge(end, join);
                }
                join
            }
            Part::Loop(body) => {
                self.shapes[first].role = Role::Loop;
                let entry = self.node();
                self.edge(first, entry).continues = true;
                let end = self.add(entry, body);
                self.edge(end, first);
                let behind = self.node();
                self.edge(first, behind).breaks = true;
                behind
            }
            Part::Batch(how, body) => {
                let entry = self.node();
                self.edge(first, entry);
                let end = self.add(entry, body);
                let gather = self.node();
                self.edge(end, gather);
                self.shapes[gather].role = Role::Gather;
                self.shapes[first].role = Role::Scatter;
                self.shapes[first].batch = Some(BatchShape {
                    gather,
                    on_error: if how.tolerant {
                        OnError::Collect
                    } else {
                        OnError::Fail
                    },
                    concurrency: how.concurrency,
                    chunk: how.chunk,
                });
                gather
            }
        }
    }
}

fn run_of(parts: &[Part]) -> Run {
    let mut build = Build::default();
    let start = build.node();
    build.add(start, parts);
    let names = (0..build.shapes.len())
        .map(|node| format!("n{node}"))
        .collect();
    Run::of(Graph::of(build.shapes, build.edges), names)
}

/// How many items of each batch have begun and not ended.
fn running(run: &Run) -> BTreeMap<Place, u64> {
    let mut running = BTreeMap::new();
    for (join, state) in &run.joins {
        if let (JoinPoint::Items(place), JoinState::Items(items)) = (join, state) {
            running.insert(place.clone(), items.begun - items.ended);
        }
    }
    running
}

proptest! {
    /// Whatever the order, the failures, the routes and the numbers of items and passes: the run ends exactly once, at its last step, no batch
    /// has more items running than it may, and from each step alone, and from the start, it is seen what follows from what is recorded.
    #[test]
    fn every_run_ends_once(parts in parts(), choices in prop::collection::vec(any::<u16>(), 64)) {
        let mut run = run_of(&parts);
        let mut choices = choices.iter().cycle().map(|&c| usize::from(c));
        let mut next = || choices.next().unwrap();
        let mut steps = 0;
        while !run.ready.is_empty() {
            prop_assert_eq!(run.ends, 0);
            steps += 1;
            prop_assert!(steps < 5000);
            let ready = run.ready.iter().nth(next() % run.ready.len()).unwrap().clone();
            let node = ready.place.node;
            let routed: Vec<EdgeIx> = run.graph.routed(node).collect();
            let ending = match (next() % 12, run.graph.role(node)) {
                (0, _) => Ending::Failed { fall_back: next() % 3 > 0 },
                (_, Role::Scatter) => Ending::Scattered { items: next() as u64 % 4 },
                (_, Role::Loop) => {
                    let breaks = next() % 2 == 0 || ready.place.scope.pass() > Some(2);
                    let taken = routed.into_iter().filter(|&edge| run.graph.leaves(edge) == breaks);
                    Ending::Completed { taken: taken.collect() }
                }
                _ => Ending::Completed { taken: routed.into_iter().filter(|_| next() % 8 > 0).collect() },
            };
            run.end_of(ready, &ending);
            for (place, count) in running(&run) {
                let batch = run.graph.batch(place.node).unwrap();
                prop_assert!(batch.concurrency.is_none_or(|most| count <= most));
                prop_assert!(batch.chunk.is_none_or(|most| count <= most));
            }
        }
        prop_assert_eq!(run.ends, 1);
        let open = running(&run).values().sum::<u64>();
        prop_assert_eq!(open, 0);
    }
}

/// A walk asks for what it does not know, a place and no more than is near it, and comes to the same.
#[test]
fn a_walk_asks_for_what_it_needs() {
    let mut run = Run::new("A>S S*G/2 S>B B>C C>G G>D");
    for (name, ending) in [
        ("A", None),
        ("S", Some(9)),
        ("B", None),
        ("C", None),
        ("B", None),
    ] {
        let node = run.names.iter().position(|known| known == name).unwrap();
        let taken = run.graph.routed(node).collect();
        let ending = match ending {
            Some(items) => Ending::Scattered { items },
            None => Ending::Completed { taken },
        };
        run.end(node, &ending);
    }
    let mut course = Course {
        known: Some(std::collections::HashSet::new()),
        ..Course::default()
    };
    let mut look = |from: &[Ready]| {
        let mut asked = Vec::new();
        loop {
            match unfinished_in(&run.graph, from.iter().cloned(), &course) {
                Ok(ready) => {
                    let ready: Vec<String> =
                        ready.iter().map(|ready| run.name(&ready.place)).collect();
                    return (asked.join(" "), ready.join(" "));
                }
                Err(MissingPlaces(missing)) => {
                    for place in missing {
                        asked.push(run.name(&place));
                        if let Some(mark) = run.marks.get(&place) {
                            course.marks.insert(place.clone(), *mark);
                        }
                        for join in [
                            JoinPoint::Place(place.clone()),
                            JoinPoint::Items(place.clone()),
                        ] {
                            if let Some(state) = run.joins.get(&join) {
                                course.joins.insert(join, state.clone());
                            }
                        }
                        course.known.as_mut().unwrap().insert(place);
                    }
                }
            }
        }
    };
    let start = decide_start(&run.graph).ready;
    insta::assert_debug_snapshot!(look(&start), @r#"
        (
            "A S G",
            "S/each[0..3]",
        )
        "#);
    let first = |index| {
        let first = run
            .graph
            .first_steps(1, &Scope::root().item(index))
            .next()
            .unwrap();
        Ready {
            place: first.0,
            via: Some(first.1),
        }
    };
    insta::assert_debug_snapshot!(look(&[first(0)]), @r#"
        (
            "B/each[0] C/each[0] G/each[0] B/each[2]",
            "B/each[2]",
        )
        "#);
    insta::assert_debug_snapshot!(look(&[first(1)]), @r#"
        (
            "B/each[1] C/each[1]",
            "C/each[1]",
        )
        "#);
    let near: Vec<String> = run
        .graph
        .nearby(&first(1).place)
        .iter()
        .map(|place| run.name(place))
        .collect();
    assert_eq!(near.join(" "), "B/each[1] C/each[1] G/each[1] G D");
}
