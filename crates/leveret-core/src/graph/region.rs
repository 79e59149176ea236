//! Regions: the parts of a workflow whose steps stand in a scope of their own, once for each pass of a loop.
//!
//! The body of a loop is what its `continue` edges lead to without passing the controller. Nothing but the controller leads into it, so that
//! bodies are nested or apart; where an edge leads to nothing but the controller, the next pass begins.

use std::fmt;

use super::NodeIx;

/// What a node is to the shape of its workflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It runs once, or once for each pass of the loops around it.
    #[default]
    Plain,
    /// It decides before each pass of its body whether there is one.
    Loop,
}

/// The index of a region.
pub(crate) type RegionIx = usize;

/// How deep regions may be nested.
pub const NESTED_MAX: usize = 16;

/// A loop: its controller and its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// The controller, whose steps stand in the region, too.
    pub(crate) owner: NodeIx,
    /// The region around it.
    pub(crate) parent: Option<RegionIx>,
}

/// The regions of a workflow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Regions {
    pub(crate) regions: Vec<Region>,
    /// By node, the innermost region in which its steps stand.
    pub(crate) of: Vec<Option<RegionIx>>,
}

/// What regions are made of.
pub(crate) struct Parts<'a> {
    pub(crate) roles: &'a [Role],
    /// Sources and targets.
    pub(crate) edges: &'a [(NodeIx, NodeIx)],
    /// Whether each edge, if a controller is its source, begins a pass.
    pub(crate) continues: &'a [bool],
    /// Whether each edge, if a controller is its source, ends the loop.
    pub(crate) breaks: &'a [bool],
    pub(crate) fallbacks: &'a [Option<NodeIx>],
}

/// Why the loops of a workflow are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No edge begins a pass.
    NoContinue { owner: NodeIx },
    /// Nothing leads back from the body.
    NoWayBack { owner: NodeIx },
    /// An edge leads into the body, past the controller, or leaves it so.
    Entered {
        owner: NodeIx,
        source: NodeIx,
        target: NodeIx,
    },
    /// An edge that ends the loop leads into its body.
    BreaksInside { owner: NodeIx, target: NodeIx },
    /// It has a fallback, or is one.
    Fallback { owner: NodeIx },
    /// More than [`NESTED_MAX`] around each other.
    TooDeep { owner: NodeIx },
}

impl Fault {
    /// The controller.
    pub(crate) fn owner(&self) -> NodeIx {
        match *self {
            Fault::NoContinue { owner }
            | Fault::NoWayBack { owner }
            | Fault::Entered { owner, .. }
            | Fault::BreaksInside { owner, .. }
            | Fault::Fallback { owner }
            | Fault::TooDeep { owner } => owner,
        }
    }

    /// The fault in words, where nodes have names.
    pub(crate) fn told<'a>(&'a self, names: &'a [&'a str]) -> impl fmt::Display + 'a {
        Told { fault: self, names }
    }
}

/// A fault in words.
struct Told<'a> {
    fault: &'a Fault,
    names: &'a [&'a str],
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names;
        match *self.fault {
            Fault::NoContinue { owner } => write!(
                f,
                "the loop `{}` has no edge with the action `continue`",
                names[owner]
            ),
            Fault::NoWayBack { owner } => write!(
                f,
                "nothing leads from the body of the loop `{0}` back to `{0}`",
                names[owner]
            ),
            Fault::Entered {
                owner,
                source,
                target,
            } => write!(
                f,
                "`{}` is in the body of the loop `{}`, and an edge leads to it from `{}`, which is not",
                names[target], names[owner], names[source]
            ),
            Fault::BreaksInside { owner, target } => write!(
                f,
                "the edge with the action `break` from the loop `{}` leads to `{}`, which is in its body",
                names[owner], names[target]
            ),
            Fault::Fallback { owner } => write!(
                f,
                "the loop `{}` cannot have a fallback, nor be one",
                names[owner]
            ),
            Fault::TooDeep { owner } => write!(
                f,
                "the loop `{}` is nested with more than {NESTED_MAX} others",
                names[owner]
            ),
        }
    }
}

impl Regions {
    /// Of so many nodes without loops.
    pub(crate) fn none(nodes: usize) -> Regions {
        Regions {
            regions: Vec::new(),
            of: vec![None; nodes],
        }
    }

    /// A region and those around it.
    pub(crate) fn chain(&self, first: Option<RegionIx>) -> impl Iterator<Item = RegionIx> {
        std::iter::successors(first, |&region| self.regions[region].parent)
    }

    /// Whether a region is around a node.
    pub(crate) fn is_around(&self, region: Option<RegionIx>, node: NodeIx) -> bool {
        region.is_some_and(|region| self.chain(self.of[node]).any(|around| around == region))
    }

    /// Works out the regions; or tells what is wrong with them. Takes time linear in nodes and edges, times [`NESTED_MAX`].
    pub(crate) fn new(parts: &Parts<'_>) -> Result<Regions, Vec<Fault>> {
        let count = parts.roles.len();
        let mut regions = Regions::none(count);
        let owners: Vec<NodeIx> = (0..count)
            .filter(|&node| parts.roles[node] == Role::Loop)
            .collect();
        if owners.is_empty() {
            return Ok(regions);
        }
        let mut faults: Vec<Fault> = parts
            .fallbacks
            .iter()
            .enumerate()
            .filter_map(|(node, &fallback)| Some((node, fallback?)))
            .flat_map(|(node, fallback)| [node, fallback])
            .filter(|&node| parts.roles[node] == Role::Loop)
            .map(|owner| Fault::Fallback { owner })
            .collect();
        let search = Search::new(parts);
        let mut budget = NESTED_MAX * (count + parts.edges.len());
        let mut bodies = Vec::with_capacity(owners.len());
        for owner in owners {
            match search.body(owner, &mut budget) {
                Ok(body) => {
                    faults.extend(search.entries(owner, &body));
                    bodies.push((owner, body));
                }
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        // The largest first: what is written over a region is within it.
        bodies.sort_by_key(|(owner, body)| (std::cmp::Reverse(body.len()), *owner));
        for (region, (owner, body)) in bodies.into_iter().enumerate() {
            let parent = regions.of[owner];
            regions.regions.push(Region { owner, parent });
            regions.of[owner] = Some(region);
            for node in body {
                regions.of[node] = Some(region);
            }
        }
        Ok(regions)
    }
}

struct Search<'a> {
    parts: &'a Parts<'a>,
    /// By node, its edges.
    outgoing: Vec<Vec<usize>>,
    incoming: Vec<Vec<usize>>,
    /// By node, those that it stands in for.
    guards: Vec<Option<NodeIx>>,
}

impl<'a> Search<'a> {
    fn new(parts: &'a Parts<'a>) -> Search<'a> {
        let count = parts.roles.len();
        let mut search = Search {
            parts,
            outgoing: vec![Vec::new(); count],
            incoming: vec![Vec::new(); count],
            guards: vec![None; count],
        };
        for (edge, &(source, target)) in parts.edges.iter().enumerate() {
            search.outgoing[source].push(edge);
            search.incoming[target].push(edge);
        }
        for (node, fallback) in parts.fallbacks.iter().enumerate() {
            if let Some(fallback) = *fallback {
                search.guards[fallback] = Some(node);
            }
        }
        search
    }

    /// What the passes of a loop consist of.
    fn body(&self, owner: NodeIx, budget: &mut usize) -> Result<Vec<NodeIx>, Fault> {
        let first = self.outgoing[owner].iter();
        let first: Vec<NodeIx> = first
            .filter(|&&edge| self.parts.continues[edge])
            .map(|&edge| self.parts.edges[edge].1)
            .collect();
        if first.is_empty() {
            return Err(Fault::NoContinue { owner });
        }
        let mut is_back = false;
        let mut seen = std::collections::HashSet::new();
        let mut body = Vec::new();
        let mut open = first;
        while let Some(node) = open.pop() {
            if node == owner {
                is_back = true;
                continue;
            }
            if !seen.insert(node) {
                continue;
            }
            body.push(node);
            let cost = 1 + self.outgoing[node].len();
            *budget = budget.checked_sub(cost).ok_or(Fault::TooDeep { owner })?;
            let targets = self.outgoing[node].iter();
            open.extend(targets.map(|&edge| self.parts.edges[edge].1));
            open.extend(self.parts.fallbacks[node]);
        }
        if is_back {
            Ok(body)
        } else {
            Err(Fault::NoWayBack { owner })
        }
    }

    /// The edges that lead into a body otherwise than from its controller, and those of the controller that end the loop and lead into it.
    fn entries(&self, owner: NodeIx, body: &[NodeIx]) -> Vec<Fault> {
        let inside: std::collections::HashSet<NodeIx> = body.iter().copied().collect();
        let mut faults = Vec::new();
        for &edge in &self.outgoing[owner] {
            let target = self.parts.edges[edge].1;
            if self.parts.breaks[edge] && inside.contains(&target) {
                faults.push(Fault::BreaksInside { owner, target });
            }
        }
        for &target in body {
            let sources = self.incoming[target].iter();
            let sources = sources.map(|&edge| self.parts.edges[edge].0);
            for source in sources.chain(self.guards[target]) {
                if source != owner && !inside.contains(&source) {
                    faults.push(Fault::Entered {
                        owner,
                        source,
                        target,
                    });
                }
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Edges as in `A>B`, those that begin a pass as in `L+B` and end the loop as in `L-B`, fallbacks as in `A!F`; the loops are the sources of `+`, and what is in `loops`.
    fn check(text: &str, loops: &str, expect: &str) {
        let mut names: Vec<&str> = Vec::new();
        let (mut edges, mut fallbacks) = (Vec::new(), Vec::new());
        let (mut continues, mut breaks) = (Vec::new(), Vec::new());
        let mut owners: Vec<&str> = loops.split_whitespace().collect();
        for word in text.split_whitespace() {
            let at = word.find(['>', '+', '-', '!']).expect("two nodes");
            let (source, target) = (&word[..at], &word[at + 1..]);
            let mut ix = |name| {
                names
                    .iter()
                    .position(|known| *known == name)
                    .unwrap_or_else(|| {
                        names.push(name);
                        names.len() - 1
                    })
            };
            let ends = (ix(source), ix(target));
            match &word[at..=at] {
                "!" => fallbacks.push(ends),
                kind => {
                    edges.push(ends);
                    continues.push(kind == "+");
                    breaks.push(kind == "-");
                    if kind == "+" {
                        owners.push(source);
                    }
                }
            }
        }
        let roles: Vec<Role> = names
            .iter()
            .map(|name| {
                if owners.contains(name) {
                    Role::Loop
                } else {
                    Role::Plain
                }
            })
            .collect();
        let mut guarded = vec![None; names.len()];
        for (node, fallback) in fallbacks {
            guarded[node] = Some(fallback);
        }
        let parts = Parts {
            roles: &roles,
            edges: &edges,
            continues: &continues,
            breaks: &breaks,
            fallbacks: &guarded,
        };
        let seen = match Regions::new(&parts) {
            Err(faults) => {
                let told = faults.iter().map(|fault| fault.told(&names).to_string());
                told.collect::<Vec<_>>().join("; ")
            }
            Ok(regions) => {
                let chain = |node: usize| {
                    let first = regions.of[node];
                    let around = regions.chain(first);
                    around
                        .map(|region| names[regions.regions[region].owner])
                        .collect::<Vec<_>>()
                };
                let mut lines: Vec<String> = (0..names.len())
                    .filter(|&node| regions.of[node].is_some())
                    .map(|node| format!("{}:{}", names[node], chain(node).join("<")))
                    .collect();
                lines.sort_unstable();
                lines.join(" ")
            }
        };
        assert_eq!(seen, expect, "{text}");
    }

    #[test]
    fn bodies_are_nested_or_apart() {
        check("A>B", "", "");
        check("A>L L+B B>L L>C", "", "B:L L:L");
        check("L+B B>L", "", "B:L L:L");
        check("L+B B>C C>L B>D", "", "B:L C:L D:L L:L");
        check("A>L L+M M+B B>M M>L L>C", "", "B:M<L L:L M:M<L");
        check("A>L L+M M+B B>M M>C C>L", "", "B:M<L C:L L:L M:M<L");
        check("A>L L+B B>L L>M M+C C>M", "", "B:L C:M L:L M:M");
        check("L+B B!F B>L", "", "B:L F:L L:L");
    }

    #[test]
    fn names_what_is_wrong() {
        check(
            "A>L L>C",
            "L",
            "the loop `L` has no edge with the action `continue`",
        );
        check(
            "A>L L+B L>C",
            "",
            "nothing leads from the body of the loop `L` back to `L`",
        );
        check(
            "A>L L+B B>L A>B",
            "",
            "`B` is in the body of the loop `L`, and an edge leads to it from `A`, which is not",
        );
        check(
            "A>L L+B B>L L-B",
            "",
            "the edge with the action `break` from the loop `L` leads to `B`, which is in its body",
        );
        check(
            "L+B B!L B>L",
            "",
            "the loop `L` cannot have a fallback, nor be one",
        );
    }
}
