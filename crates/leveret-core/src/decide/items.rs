//! The items of a batch: how many there are, have begun and have ended, and what the end of one makes of the others.

use std::fmt;

use super::{Decider, Ending, JoinPoint, JoinState, Passed, Ready, Resolution, width};
use crate::{
    graph::{EdgeIx, OnError, Place},
    ids::Scope,
};

/// What the text of counted items begins with.
pub(super) const MARK: char = '*';

/// What a gather knows of its items: a few numbers, however many items there are. Which of them ended is known by their own rows.
///
/// Printed and stored as how many there are, have begun and have ended, then `f` if one failed for good, and `!` when the gather was made ready or
/// cancelled, with the item that did it: `*10 10 3`, `*10 10 10 f !7`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items {
    /// All.
    pub count: u64,
    /// The first so many have begun.
    pub begun: u64,
    /// Of these so many have ended.
    pub ended: u64,
    /// One failed, and the batch does not go on without it.
    pub failed: bool,
    /// The gather was made ready or cancelled.
    pub fired: bool,
    /// By the end of this item; of none, if there are none.
    pub fired_by: Option<u64>,
}

impl Items {
    /// Reads what comes after the [`MARK`].
    pub(super) fn parse(text: &str) -> Option<Items> {
        let mut words = text.split(' ').peekable();
        let mut number = || words.next()?.parse().ok();
        let (count, begun, ended) = (number()?, number()?, number()?);
        let failed = words.next_if_eq(&"f").is_some();
        let fired = words.next();
        let fired_by = match fired.map(|fired| fired.strip_prefix('!')) {
            None | Some(Some("")) => None,
            Some(Some(index)) => Some(index.parse().ok()?),
            Some(None) => return None,
        };
        let is_sound = ended <= begun && begun <= count && words.next().is_none();
        is_sound.then_some(Items {
            count,
            begun,
            ended,
            failed,
            fired: fired.is_some(),
            fired_by,
        })
    }
}

impl fmt::Display for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Items {
            count,
            begun,
            ended,
            ..
        } = self;
        write!(f, "{MARK}{count} {begun} {ended}")?;
        if self.failed {
            f.write_str(" f")?;
        }
        match (self.fired, self.fired_by) {
            (true, Some(index)) => write!(f, " !{index}"),
            (true, None) => f.write_str(" !"),
            (false, _) => Ok(()),
        }
    }
}

/// An item that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its gather, in the item.
    pub place: Place,
    /// The edge that handed over its result, if it has one.
    pub via: Option<EdgeIx>,
    /// Why it has none.
    pub passed: Option<Passed>,
}

impl Decider<'_> {
    /// The step of a scatter: its items begin, as many of them as may.
    pub(super) fn scatter(&mut self, place: &Place, ending: &Ending<'_>) {
        let Ending::Scattered { items: count } = *ending else {
            return self.pass_gather(place, Passed::Cancelled);
        };
        let Some(batch) = self.graph.batch(place.node) else {
            return;
        };
        let gather = Place {
            node: batch.gather,
            scope: place.scope.clone(),
        };
        let items = Items {
            count,
            begun: batch.may_begin(count, 0, 0),
            fired: count == 0,
            ..Items::default()
        };
        if items.fired {
            self.decision.ready.push(Ready {
                place: gather.clone(),
                via: None,
            });
        } else {
            self.open_items(place.node, &place.scope, (0, items.begun));
        }
        let join = JoinPoint::Items(gather);
        self.decision.joins.insert(join, JoinState::Items(items));
    }

    /// A batch that has no items, as its scatter has no list or does not run.
    pub(super) fn pass_gather(&mut self, scatter: &Place, passed: Passed) {
        if let Some(batch) = self.graph.batch(scatter.node) {
            let scope = scatter.scope.clone();
            let node = batch.gather;
            self.pass(&Place { node, scope }, passed);
        }
    }

    /// The end of an item, which stands at its gather.
    pub(super) fn item_end(&mut self, place: &Place, resolution: Resolution, via: Option<EdgeIx>) {
        let graph = self.graph;
        let (Some(batch), Some(index)) = (graph.batch(place.node), place.scope.item_index()) else {
            return;
        };
        let gather = Place {
            node: place.node,
            scope: place.scope.outer(),
        };
        let Some(JoinState::Items(items)) = self.join(JoinPoint::Items(gather.clone())) else {
            return;
        };
        items.ended += 1;
        items.failed |= resolution == Resolution::Failed && batch.on_error == OnError::Fail;
        let begun = items.begun;
        if !items.failed {
            // After a failure, those go on that have begun.
            items.begun = batch.may_begin(items.count, items.ended, begun);
        }
        let begins = (begun, items.begun);
        let is_last = items.ended == items.begun && !items.fired;
        if is_last {
            (items.fired, items.fired_by) = (true, Some(index));
        }
        let failed = items.failed;
        self.decision.arrived.push(Arrival {
            place: place.clone(),
            via: via.filter(|_| resolution == Resolution::Taken),
            passed: match resolution {
                Resolution::Taken => None,
                Resolution::Untaken => Some(Passed::Skipped),
                Resolution::Failed => Some(Passed::Cancelled),
            },
        });
        if begins.0 < begins.1 {
            let join = JoinPoint::Place(place.clone());
            let fresh = || JoinState::new(width(graph, place));
            let state = self.decision.joins.entry(join).or_insert_with(fresh);
            state.edges().begins = Some(begins);
            if let Some(scatter) = graph.scatter_of(place.node) {
                self.open_items(scatter, &gather.scope, begins);
            }
        }
        match (is_last, failed) {
            (false, _) => {}
            (true, true) => self.pass(&gather, Passed::Cancelled),
            (true, false) => self.decision.ready.push(Ready {
                place: gather,
                via: None,
            }),
        }
    }

    /// Begins items: a single one with its first steps, several as one thing to do.
    fn open_items(&mut self, node: usize, around: &Scope, (from, to): (u64, u64)) {
        if to == from + 1 {
            let item = around.item(from);
            let edges = self.graph.outgoing(node).iter().copied();
            return self.tell(edges, &item, |_| Resolution::Taken);
        }
        let scope = around.items(from, to);
        let place = Place { node, scope };
        self.decision.ready.push(Ready { place, via: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_print_and_parse() {
        for text in [
            "*0 0 0 !",
            "*10 4 3",
            "*10 10 3 f",
            "*10 10 10 !7",
            "*10 10 10 f !0",
        ] {
            let state: JoinState = text.parse().expect(text);
            assert_eq!(state.to_string(), text);
        }
        for bad in [
            "*",
            "*1 2",
            "*1 1 2",
            "*1 2 1",
            "*1 1 1 !x",
            "*1 1 1 g",
            "*3 1 1 f !1 !",
        ] {
            assert!(bad.parse::<JoinState>().is_err(), "{bad}");
        }
    }
}
