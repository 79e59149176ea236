//! Regions: the parts of a workflow whose steps stand in a scope of their own, once for each pass of a loop, or for each item of a batch.
//!
//! The body of a loop is what its `continue` edges lead to without passing the controller; where an edge leads to nothing but the controller,
//! the next pass begins. The body of a batch is what the edges of its scatter lead to without passing its gather. Nothing but the controller, or
//! the scatter, leads into a body, so that bodies are nested or apart.

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
    /// It has its body executed for each item of its input.
    Scatter,
    /// It waits for the items of a scatter.
    Gather,
}

/// The index of a region.
pub(crate) type RegionIx = usize;

/// How deep regions may be nested.
pub const NESTED_MAX: usize = 16;

/// A loop or a batch: what begins it, and its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// The controller of a loop, whose steps stand in the region, too; or the scatter of a batch, whose step stands around it.
    pub(crate) owner: NodeIx,
    /// The gather of a batch, whose step stands around it.
    pub(crate) gather: Option<NodeIx>,
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
    /// By scatter, its gather.
    pub(crate) gathers: &'a [Option<NodeIx>],
}

/// Why the loops and batches of a workflow are none.
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
        /// Whether it is a batch.
        is_batch: bool,
    },
    /// An edge that ends the loop leads into its body.
    BreaksInside { owner: NodeIx, target: NodeIx },
    /// It has a fallback, or is one.
    Fallback { owner: NodeIx },
    /// More than [`NESTED_MAX`] around each other.
    TooDeep { owner: NodeIx },
    /// The gather that the batch names is none.
    NoGather { owner: NodeIx },
    /// No edge, or none but those to the gather, leaves the scatter.
    NothingBetween { owner: NodeIx },
    /// An edge leads from the scatter past the nodes between to the gather.
    Past { owner: NodeIx, gather: NodeIx },
    /// Nothing leads from the body to the gather.
    NoWayOn { owner: NodeIx, gather: NodeIx },
    /// An edge leads from the body back to the scatter.
    Returns { owner: NodeIx },
    /// Beside the edge from the scatter, others lead to a first node.
    Joined { owner: NodeIx, target: NodeIx },
    /// An edge leads to the gather that is not from the body.
    GatherEntered { gather: NodeIx, source: NodeIx },
    /// One of scatter and gather is in a loop or batch in which the other is not.
    Apart { owner: NodeIx, gather: NodeIx },
    /// No scatter names the gather.
    NoScatter { gather: NodeIx },
    /// Another scatter names the gather, too.
    TwoScatters { owner: NodeIx, gather: NodeIx },
}

impl Fault {
    /// The node that it is told at.
    pub(crate) fn owner(&self) -> NodeIx {
        match *self {
            Fault::NoContinue { owner }
            | Fault::NoWayBack { owner }
            | Fault::Entered { owner, .. }
            | Fault::BreaksInside { owner, .. }
            | Fault::Fallback { owner }
            | Fault::TooDeep { owner }
            | Fault::NoGather { owner }
            | Fault::NothingBetween { owner }
            | Fault::Past { owner, .. }
            | Fault::NoWayOn { owner, .. }
            | Fault::Returns { owner }
            | Fault::Joined { owner, .. }
            | Fault::Apart { owner, .. }
            | Fault::TwoScatters { owner, .. } => owner,
            Fault::GatherEntered { gather, .. } | Fault::NoScatter { gather } => gather,
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
                is_batch,
            } => write!(
                f,
                "`{}` is in the body of the {} `{}`, and an edge leads to it from `{}`, which is not",
                names[target],
                if is_batch { "batch" } else { "loop" },
                names[owner],
                names[source]
            ),
            Fault::BreaksInside { owner, target } => write!(
                f,
                "the edge with the action `break` from the loop `{}` leads to `{}`, which is in its body",
                names[owner], names[target]
            ),
            Fault::Fallback { owner } => {
                write!(f, "`{}` cannot have a fallback, nor be one", names[owner])
            }
            Fault::TooDeep { owner } => write!(
                f,
                "`{}` is nested with more than {NESTED_MAX} others",
                names[owner]
            ),
            Fault::NoGather { owner } => write!(
                f,
                "the `gatherNodeId` of the batch `{}` names no `batch-gather`",
                names[owner]
            ),
            Fault::NothingBetween { owner } => write!(
                f,
                "the batch `{}` has neither a node between scatter and gather nor a `workerUsesKey`",
                names[owner]
            ),
            Fault::Past { owner, gather } => write!(
                f,
                "an edge leads from the batch `{}` to its gather `{}`, past the nodes between them",
                names[owner], names[gather]
            ),
            Fault::NoWayOn { owner, gather } => write!(
                f,
                "nothing leads from the body of the batch `{}` to its gather `{}`",
                names[owner], names[gather]
            ),
            Fault::Returns { owner } => write!(
                f,
                "an edge leads from the body of the batch `{0}` back to `{0}`",
                names[owner]
            ),
            Fault::Joined { owner, target } => write!(
                f,
                "an edge leads from the batch `{}` to `{}`, to which others lead, too",
                names[owner], names[target]
            ),
            Fault::GatherEntered { gather, source } => write!(
                f,
                "an edge leads to the gather `{}` from `{}`, which is not in the body of its batch",
                names[gather], names[source]
            ),
            Fault::Apart { owner, gather } => write!(
                f,
                "the batch `{}` and its gather `{}` are not in the same loop or batch",
                names[owner], names[gather]
            ),
            Fault::NoScatter { gather } => {
                write!(f, "no `batch-scatter` names the gather `{}`", names[gather])
            }
            Fault::TwoScatters { owner, gather } => write!(
                f,
                "the gather `{}` of the batch `{}` is that of another, too",
                names[gather], names[owner]
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
            .filter(|&node| matches!(parts.roles[node], Role::Loop | Role::Scatter))
            .collect();
        let mut faults = gather_faults(parts, &owners);
        let fallbacks = parts.fallbacks.iter().enumerate();
        let guarded = fallbacks.filter_map(|(node, &fallback)| Some((node, fallback?)));
        faults.extend(
            guarded
                .flat_map(|(node, fallback)| [node, fallback])
                .filter(|node| owners.binary_search(node).is_ok())
                .map(|owner| Fault::Fallback { owner }),
        );
        let search = Search::new(parts);
        let mut budget = NESTED_MAX * (count + parts.edges.len());
        let mut bodies = Vec::with_capacity(owners.len());
        for owner in owners {
            let gather = parts.gathers[owner];
            if parts.roles[owner] == Role::Scatter && gather.is_none() {
                continue;
            }
            match search.body(owner, &mut budget) {
                Ok(body) => {
                    faults.extend(search.entries(owner, &body));
                    bodies.push((owner, gather, body));
                }
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        // The largest first: what is written over a region is within it.
        bodies.sort_by_key(|(owner, _, body)| (std::cmp::Reverse(body.len()), *owner));
        for (region, (owner, gather, body)) in bodies.into_iter().enumerate() {
            let parent = regions.of[owner];
            regions.regions.push(Region {
                owner,
                gather,
                parent,
            });
            if gather.is_none() {
                regions.of[owner] = Some(region);
            }
            for node in body {
                regions.of[node] = Some(region);
            }
        }
        for &Region { owner, gather, .. } in &regions.regions {
            if let Some(gather) = gather
                && regions.of[gather] != regions.of[owner]
            {
                faults.push(Fault::Apart { owner, gather });
            }
        }
        if faults.is_empty() {
            Ok(regions)
        } else {
            Err(faults)
        }
    }
}

/// What is wrong with which scatter names which gather.
fn gather_faults(parts: &Parts<'_>, owners: &[NodeIx]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut named = vec![false; parts.roles.len()];
    for &owner in owners {
        if parts.roles[owner] != Role::Scatter {
            continue;
        }
        match parts.gathers[owner] {
            Some(gather) if parts.roles[gather] != Role::Gather => {
                faults.push(Fault::NoGather { owner });
            }
            Some(gather) if std::mem::replace(&mut named[gather], true) => {
                faults.push(Fault::TwoScatters { owner, gather });
            }
            Some(_) => {}
            None => faults.push(Fault::NoGather { owner }),
        }
    }
    let roles = parts.roles.iter().zip(&named).enumerate();
    let alone = roles.filter(|(_, (role, named))| **role == Role::Gather && !**named);
    faults.extend(alone.map(|(gather, _)| Fault::NoScatter { gather }));
    faults
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

    /// How many edges lead to a node, those aside that begin the next pass of a loop if it is a controller.
    fn entering(&self, node: NodeIx) -> usize {
        let edges = &self.incoming[node];
        if self.parts.roles[node] != Role::Loop {
            return edges.len();
        }
        let body = self.body(node, &mut { usize::MAX });
        let body: std::collections::HashSet<NodeIx> =
            body.unwrap_or_default().into_iter().collect();
        let sources = edges.iter().map(|&edge| self.parts.edges[edge].0);
        sources.filter(|source| !body.contains(source)).count()
    }

    /// What the passes of a loop, or the items of a batch, consist of.
    fn body(&self, owner: NodeIx, budget: &mut usize) -> Result<Vec<NodeIx>, Fault> {
        let gather = self.parts.gathers[owner];
        let first = self.outgoing[owner].iter();
        let first: Vec<NodeIx> = first
            .filter(|&&edge| gather.is_some() || self.parts.continues[edge])
            .map(|&edge| self.parts.edges[edge].1)
            .collect();
        match gather {
            None if first.is_empty() => return Err(Fault::NoContinue { owner }),
            Some(gather) if first.iter().all(|&node| node == gather) => {
                return Err(Fault::NothingBetween { owner });
            }
            Some(gather) if first.contains(&gather) => {
                return Err(Fault::Past { owner, gather });
            }
            _ => {}
        }
        let end = gather.unwrap_or(owner);
        let mut is_at_end = false;
        let mut seen = std::collections::HashSet::new();
        let mut body = Vec::new();
        let mut open = first;
        while let Some(node) = open.pop() {
            if node == end {
                is_at_end = true;
                continue;
            }
            if node == owner {
                return Err(Fault::Returns { owner });
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
        match gather {
            _ if is_at_end => Ok(body),
            None => Err(Fault::NoWayBack { owner }),
            Some(gather) => Err(Fault::NoWayOn { owner, gather }),
        }
    }

    /// The edges that lead into a body otherwise than from its owner, those of a controller that end the loop and lead into it, and those to a
    /// gather that are not from the body.
    fn entries(&self, owner: NodeIx, body: &[NodeIx]) -> Vec<Fault> {
        let inside: std::collections::HashSet<NodeIx> = body.iter().copied().collect();
        let gather = self.parts.gathers[owner];
        let is_batch = gather.is_some();
        let mut faults = Vec::new();
        for &edge in &self.outgoing[owner] {
            let target = self.parts.edges[edge].1;
            if is_batch && self.entering(target) > 1 {
                faults.push(Fault::Joined { owner, target });
            } else if !is_batch && self.parts.breaks[edge] && inside.contains(&target) {
                faults.push(Fault::BreaksInside { owner, target });
            }
        }
        let sources = |target: NodeIx| {
            let edges = self.incoming[target].iter();
            let sources = edges.map(|&edge| self.parts.edges[edge].0);
            sources.chain(self.guards[target])
        };
        for &target in body {
            for source in sources(target) {
                if source != owner && !inside.contains(&source) {
                    faults.push(Fault::Entered {
                        owner,
                        source,
                        target,
                        is_batch,
                    });
                }
            }
        }
        if let Some(gather) = gather {
            let outside = sources(gather).filter(|source| !inside.contains(source));
            faults.extend(outside.map(|source| Fault::GatherEntered { gather, source }));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Edges as in `A>B`, those that begin a pass as in `L+B` and end the loop as in `L-B`, fallbacks as in `A!F`; the loops are the sources of `+`, and what is in `loops`.
    /// Batches as in `S*G`; scatters are those with an S in front, gathers those with a G.
    fn check(text: &str, loops: &str, expect: &str) {
        let mut names: Vec<&str> = Vec::new();
        let (mut edges, mut fallbacks, mut batches) = (Vec::new(), Vec::new(), Vec::new());
        let (mut continues, mut breaks) = (Vec::new(), Vec::new());
        let mut owners: Vec<&str> = loops.split_whitespace().collect();
        for word in text.split_whitespace() {
            let at = word.find(['>', '+', '-', '!', '*']).expect("two nodes");
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
                "*" => batches.push(ends),
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
            .map(|name| match name.as_bytes()[0] {
                _ if owners.contains(name) => Role::Loop,
                b'S' => Role::Scatter,
                b'G' => Role::Gather,
                _ => Role::Plain,
            })
            .collect();
        let mut guarded = vec![None; names.len()];
        for (node, fallback) in fallbacks {
            guarded[node] = Some(fallback);
        }
        let mut gathers = vec![None; names.len()];
        for (scatter, gather) in batches {
            gathers[scatter] = Some(gather);
        }
        let parts = Parts {
            roles: &roles,
            edges: &edges,
            continues: &continues,
            breaks: &breaks,
            fallbacks: &guarded,
            gathers: &gathers,
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
        check("S*G A>S S>B B>C S>D C>G D>G G>E", "", "B:S C:S D:S");
        check(
            "S*G S2*G2 S>S2 S2>B B>G2 G2>C C>G",
            "",
            "B:S2<S C:S G2:S S2:S",
        );
        check("S*G L+S S>B B>G G>L", "", "B:S<L G:L L:L S:L");
        check("S*G S>L L+B B>L L-G", "", "B:L<S L:L<S");
        check("S*G S>B B!F B>G S>D", "", "B:S D:S F:S");
    }

    #[test]
    fn names_what_is_wrong_with_a_batch() {
        let check = |text, expect| check(text, "", expect);
        check(
            "S>B B>G",
            "the `gatherNodeId` of the batch `S` names no `batch-gather`; no `batch-scatter` names the gather `G`",
        );
        check(
            "S*B S>B B>C",
            "the `gatherNodeId` of the batch `S` names no `batch-gather`; the batch `S` has neither a node between scatter and gather nor a `workerUsesKey`",
        );
        check(
            "S*G S>G",
            "the batch `S` has neither a node between scatter and gather nor a `workerUsesKey`",
        );
        check(
            "S*G S>B B>G S>G",
            "an edge leads from the batch `S` to its gather `G`, past the nodes between them",
        );
        check(
            "S*G S>B G>C",
            "nothing leads from the body of the batch `S` to its gather `G`",
        );
        check(
            "S*G S>B B>G B>S",
            "an edge leads from the body of the batch `S` back to `S`",
        );
        check(
            "S*G S>B S>C B>C C>G",
            "an edge leads from the batch `S` to `C`, to which others lead, too",
        );
        check(
            "S*G S>B B>G A>G",
            "an edge leads to the gather `G` from `A`, which is not in the body of its batch",
        );
        check(
            "S*G S>B B>C C>G A>C",
            "`C` is in the body of the batch `S`, and an edge leads to it from `A`, which is not",
        );
        check(
            "S*G S2*G S>B B>G S2>C C>G",
            "the gather `G` of the batch `S2` is that of another, too; an edge leads to the gather `G` from `C`, which is not in the body of its batch; an edge leads to the gather `G` from `B`, which is not in the body of its batch",
        );
        check(
            "S*G S>L L+B B>L B>G",
            "the batch `S` and its gather `G` are not in the same loop or batch",
        );
        check("S*G S>B B>G S!F", "`S` cannot have a fallback, nor be one");
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
        check("L+B B!L B>L", "", "`L` cannot have a fallback, nor be one");
    }
}
