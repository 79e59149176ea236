//! What clients did and heard, and what must hold of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Instant,
};

use rusqlite::types::Value as Sql;

use super::rig::Dump;

/// A write that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) client: usize,
    pub(crate) key: String,
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
    pub(crate) seq: u64,
}

/// A question that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) client: usize,
    /// `session` or `latest`.
    pub(crate) level: &'static str,
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
    /// The seq of the snapshot.
    pub(crate) seq: u64,
    /// The keys of this client that the answer has, for `session`.
    pub(crate) own: u64,
}

/// Everything that was answered, in no order.
#[derive(Default)]
pub(crate) struct History {
    writes: Mutex<Vec<Write>>,
    reads: Mutex<Vec<Read>>,
}

impl History {
    pub(crate) fn wrote(&self, write: Write) {
        self.writes.lock().unwrap().push(write);
    }

    pub(crate) fn read(&self, read: Read) {
        self.reads.lock().unwrap().push(read);
    }

    pub(crate) fn writes(&self) -> usize {
        self.writes.lock().unwrap().len()
    }

    /// Each acknowledged write is in the journal exactly once, nothing else is but writes that were not answered, and the order of seqs is that
    /// of the journal and of time. Reads keep their levels.
    pub(crate) fn assert_holds(&self, dump: &Dump) {
        let mut writes = self.writes.lock().unwrap().clone();
        writes.sort_by_key(|write| write.seq);
        assert_journal(&writes, &journal(dump));
        assert_order_of_time(&writes);
        let reads = self.reads.lock().unwrap();
        assert_reads(&writes, &reads);
    }
}

/// The keys in the order in which they were written.
fn journal(dump: &Dump) -> Vec<String> {
    let rows = &dump["journal"].1;
    let key = |row: &Vec<Sql>| match &row[2] {
        Sql::Text(key) => key.clone(),
        other => panic!("a key is text: {other:?}"),
    };
    rows.iter().map(key).collect()
}

fn assert_journal(writes: &[Write], journal: &[String]) {
    let places: BTreeMap<&str, usize> = journal
        .iter()
        .enumerate()
        .map(|(at, key)| (key.as_str(), at))
        .collect();
    assert_eq!(places.len(), journal.len(), "a write is doubled");
    let seqs: BTreeSet<u64> = writes.iter().map(|write| write.seq).collect();
    assert_eq!(seqs.len(), writes.len(), "two writes have one seq");
    let mut before = None;
    for write in writes {
        let at = places.get(write.key.as_str());
        let at = at.unwrap_or_else(|| panic!("an acknowledged write is lost: {write:?}"));
        assert!(
            before < Some(at),
            "seqs are not the order of effects: {write:?}"
        );
        before = Some(at);
    }
}

/// What was answered before another was asked has the smaller seq.
fn assert_order_of_time(by_seq: &[Write]) {
    let mut earliest_answer_behind: Option<&Write> = None;
    for write in by_seq.iter().rev() {
        if let Some(later) = earliest_answer_behind {
            assert!(
                write.asked <= later.answered,
                "{write:?} was asked after {later:?} was answered"
            );
        }
        if earliest_answer_behind.is_none_or(|later| write.answered < later.answered) {
            earliest_answer_behind = Some(write);
        }
    }
}

/// What was answered by some moment.
struct Answered(Vec<(Instant, u64)>);

impl Answered {
    fn of<'a>(writes: impl Iterator<Item = &'a Write>) -> Answered {
        let mut moments: Vec<_> = writes.map(|write| (write.answered, write.seq)).collect();
        moments.sort_unstable();
        let mut highest = 0;
        for (_, seq) in &mut moments {
            highest = highest.max(*seq);
            *seq = highest;
        }
        Answered(moments)
    }

    /// How many, and the highest seq of them.
    fn by(&self, moment: Instant) -> (u64, u64) {
        let count = self.0.partition_point(|(answered, _)| *answered <= moment);
        let highest = count.checked_sub(1).map_or(0, |last| self.0[last].1);
        (count as u64, highest)
    }
}

fn assert_reads(writes: &[Write], reads: &[Read]) {
    let all = Answered::of(writes.iter());
    let mut by_client: BTreeMap<usize, Answered> = BTreeMap::new();
    for read in reads {
        if read.level == "session" {
            let own = by_client.entry(read.client).or_insert_with(|| {
                Answered::of(writes.iter().filter(|write| write.client == read.client))
            });
            let (count, last) = own.by(read.asked);
            assert!(
                read.seq >= last,
                "a client does not read its own writes: {read:?}, {last}"
            );
            assert!(
                read.own >= count,
                "a client misses writes of its own: {read:?}, {count}"
            );
        } else {
            let (_, last) = all.by(read.asked);
            assert!(read.seq >= last, "latest is not: {read:?}, {last}");
        }
    }
    for client in reads
        .iter()
        .map(|read| read.client)
        .collect::<BTreeSet<_>>()
    {
        let mut own: Vec<&Read> = reads.iter().filter(|read| read.client == client).collect();
        own.sort_by_key(|read| read.asked);
        assert!(
            own.is_sorted_by_key(|read| read.seq),
            "client {client} goes back"
        );
    }
    let mut latest: Vec<&Read> = reads.iter().filter(|read| read.level == "latest").collect();
    latest.sort_by_key(|read| read.seq);
    let mut earliest: Option<&Read> = None;
    for read in latest.into_iter().rev() {
        if let Some(later) = earliest.filter(|later| later.seq > read.seq) {
            assert!(
                read.asked <= later.answered,
                "latest goes back: {read:?} after {later:?}"
            );
        }
        if earliest.is_none_or(|later| read.answered < later.answered) {
            earliest = Some(read);
        }
    }
}

/// The checker finds what must not be.
#[test]
fn a_history_that_does_not_hold_is_found() {
    let start = Instant::now();
    let at = |ms| start + std::time::Duration::from_millis(ms);
    let write = |key: &str, seq, asked, answered| Write {
        client: 0,
        key: key.to_owned(),
        asked: at(asked),
        answered: at(answered),
        seq,
    };
    let fails = |check: &dyn Fn()| {
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        assert!(checked.is_err(), "not found");
    };
    let writes = [write("a", 1, 0, 5), write("b", 2, 6, 9)];
    let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    assert_journal(&writes, &keys(&["a", "unanswered", "b"]));
    assert_order_of_time(&writes);
    fails(&|| assert_journal(&writes, &keys(&["a"])));
    fails(&|| assert_journal(&writes, &keys(&["a", "b", "b"])));
    fails(&|| assert_journal(&writes, &keys(&["b", "a"])));
    fails(&|| assert_order_of_time(&[write("b", 1, 6, 9), write("a", 2, 0, 5)]));
    let read = |level, seq, own, asked| Read {
        client: 0,
        level,
        asked: at(asked),
        answered: at(asked + 1),
        seq,
        own,
    };
    assert_reads(
        &writes,
        &[read("latest", 2, 0, 10), read("session", 2, 2, 12)],
    );
    fails(&|| assert_reads(&writes, &[read("latest", 1, 0, 10)]));
    fails(&|| assert_reads(&writes, &[read("session", 2, 1, 10)]));
    fails(&|| assert_reads(&writes, &[read("latest", 2, 0, 7), read("latest", 1, 0, 9)]));
}
