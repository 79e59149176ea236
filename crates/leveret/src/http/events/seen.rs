//! What a stream has told of a run's steps, and the event ids that let a client go on where it stopped.
//!
//! An event id names the *set* of ended steps that were told up to it: their number and a digest. Ended steps never change, so a client
//! that comes back is told exactly what is not in that set; if the set cannot be recognised (steps were recorded in between in
//! another order), everything is told again. Nothing is ever left out.

use std::{cmp::Ordering, collections::HashMap, fmt, str::FromStr, sync::Arc};

use leveret_core::{ids::NodeId, workflow::Workflow};

use crate::store::{StepHead, StepStatus};

/// The id of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    count: u64,
    digest: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.count, self.digest)
    }
}

impl FromStr for Position {
    type Err = ();
    fn from_str(text: &str) -> Result<Position, ()> {
        let (count, digest) = text.split_once('-').ok_or(())?;
        let digest = u64::from_str_radix(digest, 16).map_err(|_| ())?;
        Ok(Position {
            count: count.parse().map_err(|_| ())?,
            digest,
        })
    }
}

impl Position {
    fn with(self, step: u64) -> Position {
        Position {
            count: self.count + 1,
            digest: self.digest.wrapping_add(step),
        }
    }
}

/// In which order a workflow's nodes can be reached. Without the workflow, by their names.
#[derive(Debug, Default)]
pub(super) struct Order {
    workflow: Option<Arc<Workflow>>,
    positions: Vec<usize>,
}

impl Order {
    pub(super) fn of(workflow: Arc<Workflow>) -> Order {
        Order {
            positions: workflow.graph.order(),
            workflow: Some(workflow),
        }
    }

    fn compare(&self, a: &NodeId, b: &NodeId) -> Ordering {
        let position = |id: &NodeId| {
            let node = self.workflow.as_ref()?.node_ix(id.as_str())?;
            Some(self.positions[node])
        };
        position(a).cmp(&position(b)).then_with(|| a.cmp(b))
    }
}

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Seen {
    position: Position,
    told: HashMap<u64, (StepStatus, u32)>,
}

impl Seen {
    /// What a client has been told that knows this position, given the steps recorded now; nothing if that is unclear.
    pub(super) fn up_to(position: Position, steps: &mut [StepHead], order: &Order) -> Seen {
        in_order(steps, order);
        let mut seen = Seen::default();
        for step in steps.iter().filter(|step| is_final(step)) {
            if seen.position.count == position.count {
                break;
            }
            seen.tell(step);
        }
        if seen.position == position {
            seen
        } else {
            Seen::default()
        }
    }

    /// The steps that were not told yet, or stand elsewhere than they were told, each with the position behind it.
    pub(super) fn news(
        &mut self,
        mut steps: Vec<StepHead>,
        order: &Order,
    ) -> Vec<(StepHead, Position)> {
        in_order(&mut steps, order);
        let tell = |step: StepHead| self.tell(&step).then_some((step, self.position));
        steps.into_iter().filter_map(tell).collect()
    }

    fn tell(&mut self, step: &StepHead) -> bool {
        let key = key(step);
        let stands = (step.status, step.attempts);
        if self.told.insert(key, stands) == Some(stands) {
            return false;
        }
        if is_final(step) {
            self.position = self.position.with(key);
        }
        true
    }
}

fn is_final(step: &StepHead) -> bool {
    step.status != StepStatus::Waiting
}

/// By time; what has the same, which is told in milliseconds, by the graph.
fn in_order(steps: &mut [StepHead], order: &Order) {
    steps.sort_by(|a, b| {
        let key = |step: &StepHead| (step.finished_at, step.started_at);
        key(a)
            .cmp(&key(b))
            .then_with(|| order.compare(&a.node_id, &b.node_id))
            .then_with(|| a.scope.cmp(&b.scope))
    });
}

/// FNV-1a of node and scope, the same in every process and version.
fn key(step: &StepHead) -> u64 {
    let bytes = step
        .node_id
        .as_str()
        .bytes()
        .chain([0])
        .chain(step.scope.as_str().bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use leveret_core::{
        ids::{NodeId, Scope},
        time::Timestamp,
    };

    use super::*;

    fn step(node: &str, finished_at: i64, status: StepStatus, attempts: u32) -> StepHead {
        StepHead {
            node_id: NodeId::new(node).unwrap(),
            scope: Scope::root(),
            status,
            attempts,
            started_at: Timestamp(0),
            finished_at: Timestamp(finished_at),
        }
    }

    fn done(node: &str, finished_at: i64) -> StepHead {
        step(node, finished_at, StepStatus::Completed, 1)
    }

    fn told(seen: &mut Seen, steps: Vec<StepHead>) -> Vec<(String, Position)> {
        seen.news(steps, &Order::default())
            .into_iter()
            .map(|(step, at)| (step.node_id.to_string(), at))
            .collect()
    }

    fn names(news: &[(String, Position)]) -> Vec<&str> {
        news.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// A step is told when it changes, and not again.
    #[test]
    fn tells_news_once() {
        let mut seen = Seen::default();
        assert_eq!(
            names(&told(&mut seen, vec![done("b", 1), done("a", 1)])),
            ["a", "b"]
        );
        let waiting = |attempts| step("c", 2, StepStatus::Waiting, attempts);
        assert_eq!(
            names(&told(
                &mut seen,
                vec![done("a", 1), done("b", 1), waiting(1)]
            )),
            ["c"]
        );
        assert_eq!(
            names(&told(
                &mut seen,
                vec![done("a", 1), done("b", 1), waiting(1)]
            )),
            [""; 0]
        );
        assert_eq!(
            names(&told(
                &mut seen,
                vec![done("a", 1), done("b", 1), waiting(2)]
            )),
            ["c"]
        );
        assert_eq!(
            names(&told(
                &mut seen,
                vec![done("a", 1), done("b", 1), done("c", 3)]
            )),
            ["c"]
        );
    }

    /// A client that knows the id of any event is told the rest, and all of it again if what it knows cannot be recognised.
    #[test]
    fn goes_on_where_a_client_stopped() {
        let all = || {
            vec![
                done("a", 1),
                done("b", 1),
                step("w", 1, StepStatus::Waiting, 1),
                done("c", 2),
            ]
        };
        let first = told(&mut Seen::default(), all());
        assert_eq!(names(&first), ["a", "b", "w", "c"]);
        let after = |at: Position, mut steps: Vec<StepHead>| {
            let mut seen = Seen::up_to(at, &mut steps, &Order::default());
            let news = told(&mut seen, steps);
            names(&news)
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(after(first[0].1, all()), ["b", "w", "c"]);
        assert_eq!(after(first[1].1, all()), ["w", "c"]);
        assert_eq!(after(first[3].1, all()), ["w"]);
        // A step that ended earlier became visible later.
        let late: Vec<_> = all().into_iter().chain([done("aa", 1)]).collect();
        assert_eq!(after(first[1].1, late), ["a", "aa", "b", "w", "c"]);
    }

    /// Steps that ended in the same millisecond are told as the graph has them.
    #[test]
    fn tells_successors_later() {
        let nodes = ["a", "b", "c"].map(|id| serde_json::json!({ "id": id, "uses": "set" }));
        let definition = serde_json::json!({
            "id": "w",
            "nodes": nodes,
            "edges": [{ "source": "c", "target": "a" }],
        });
        let workflow = leveret_core::parse::workflow_from_json(&definition, None).unwrap();
        let order = Order::of(Arc::new(workflow));
        let steps = vec![done("a", 1), done("b", 1), done("c", 1), done("z", 0)];
        let mut seen = Seen::default();
        let news = seen.news(steps, &order);
        let names: Vec<_> = news.iter().map(|(step, _)| step.node_id.as_str()).collect();
        assert_eq!(names, ["z", "b", "c", "a"]);
    }

    #[test]
    fn positions_are_text() {
        let position = Position {
            count: 3,
            digest: 0xab,
        };
        assert_eq!(position.to_string(), "3-00000000000000ab");
        assert_eq!("3-00000000000000ab".parse(), Ok(position));
        assert!("end".parse::<Position>().is_err());
    }
}
