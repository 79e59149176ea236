//! Which nodes differ: rolling hashes of several nodes at one seq, compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The most seqs whose hashes are kept.
const SEQS_MAX: usize = 4096;

/// The hashes that nodes had at seqs, each node once, in the order in which they were told.
#[derive(Debug, Default)]
pub(super) struct Marks(BTreeMap<u64, Vec<(Arc<str>, u64)>>);

impl Marks {
    /// A node had this hash at this seq. Returns whether nodes differ there.
    pub(super) fn note(&mut self, node_id: &Arc<str>, seq: u64, hash: u64) -> bool {
        if seq == 0 {
            return false;
        }
        let at = self.0.entry(seq).or_default();
        if at.iter().all(|(known, _)| known != node_id) {
            at.push((node_id.clone(), hash));
        }
        let differ = at.iter().any(|(_, other)| *other != hash);
        while self.0.len() > SEQS_MAX {
            self.0.pop_first();
        }
        differ
    }

    /// The node begins anew: what it had before says nothing of it.
    pub(super) fn forget(&mut self, node_id: &str) {
        self.0.retain(|_, at| {
            at.retain(|(known, _)| &**known != node_id);
            !at.is_empty()
        });
    }

    /// The nodes that are to be quarantined for what they had at this seq: all but those of the largest group, once that is known. That is when
    /// a group has more than half of the voters, or when every voter that can tell has told. Of groups of one size the one that told first
    /// stays, since its outcomes may have been acknowledged.
    pub(super) fn minority(
        &self,
        seq: u64,
        voters: &BTreeSet<Arc<str>>,
        reachable: &BTreeSet<Arc<str>>,
    ) -> Vec<Arc<str>> {
        let told = self.0.get(&seq).map_or(&[][..], Vec::as_slice);
        let told: Vec<_> = told.iter().filter(|(id, _)| voters.contains(id)).collect();
        let mut largest: Option<(u64, usize)> = None;
        for (_, hash) in &told {
            let size = told.iter().filter(|(_, other)| other == hash).count();
            if largest.is_none_or(|(_, most)| size > most) {
                largest = Some((*hash, size));
            }
        }
        let Some((hash, size)) = largest else {
            return Vec::new();
        };
        let has_told = |id: &Arc<str>| told.iter().any(|(known, _)| known == id);
        if size * 2 <= voters.len() && !reachable.iter().all(has_told) {
            return Vec::new();
        }
        let others = told.iter().filter(|(_, other)| *other != hash);
        others.map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes `a`, `b`, `c` with their hashes at seq 1; those in capitals are not reachable.
    fn check(voters: &str, told: &str, expect: &str) {
        let mut marks = Marks::default();
        for told in told.split_whitespace() {
            let (id, hash) = told.split_once('=').unwrap();
            marks.note(&id.into(), 1, hash.parse().unwrap());
        }
        let all = |keep: fn(char) -> bool| {
            let ids = voters.chars().filter(|c| keep(*c));
            ids.map(|c| Arc::from(c.to_lowercase().to_string()))
                .collect()
        };
        let minority = marks.minority(1, &all(|_| true), &all(char::is_lowercase));
        assert_eq!(minority.join(""), expect, "{voters}: {told}");
    }

    #[test]
    fn finds_the_minority() {
        check("abc", "a=1 b=1 c=1", "");
        check("abc", "a=1 b=2", "");
        check("abc", "a=1 b=2 c=1", "b");
        check("abc", "a=2 b=1 c=1", "a");
        check("abc", "a=1 b=1", "");
        check("abC", "a=1 b=2", "b");
        check("ab", "a=1 b=2", "b");
        check("abc", "a=1 b=2 c=3", "bc");
        // One that has no vote any more changes nothing.
        check("ab", "x=2 a=1 b=1", "");
        check("abcd", "a=1 b=1 c=2", "");
        check("abcd", "a=1 b=1 c=2 d=2", "cd");
    }

    #[test]
    fn a_rebuilt_node_begins_anew() {
        let mut marks = Marks::default();
        assert!(!marks.note(&"a".into(), 1, 1));
        assert!(marks.note(&"b".into(), 1, 2));
        marks.forget("b");
        assert!(!marks.note(&"b".into(), 1, 1));
        assert!(!marks.note(&"a".into(), 0, 5));
    }
}
