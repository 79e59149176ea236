//! What every log must do. An adapter's test is a call of [`exercise`] with a way to make empty logs of cluster `c1`.

use std::sync::Arc;

use leveret_core::{
    broadcast::{Outcome, Position, SqlError, Statement, StatementResult, Value, Write},
    time::Timestamp,
};

use super::{Appended, Key, LOG_LEASE, LogError, NewWrite, WriteLog};

const NOW: Timestamp = Timestamp(1_795_141_463_755);
const BYTES: u64 = 1 << 20;

/// Runs all checks, each over a log of its own. Panics where a promise is broken.
pub async fn exercise(make: impl AsyncFn() -> Arc<dyn WriteLog>) {
    numbers_without_gaps(&*make().await).await;
    keys(&*make().await).await;
    fencing(&*make().await).await;
    leases(&*make().await).await;
    releases(&*make().await).await;
    truncation(&*make().await).await;
    recovery(&*make().await).await;
    facts(&*make().await).await;
    appends_side_by_side(make().await).await;
}

/// A write that can be told from others by its number.
pub fn write(number: i64, key: Option<(&str, u8)>) -> NewWrite {
    NewWrite {
        write: Write {
            statements: vec![Statement {
                sql: "INSERT INTO t VALUES (?, ?)".to_owned(),
                args: vec![Value::Integer(number), Value::Text("ä\0".to_owned())],
            }],
            at: NOW,
            seed: u64::MAX - number.cast_unsigned(),
        },
        key: key.map(|(name, digest)| Key {
            name: name.into(),
            digest: [digest; 32],
        }),
    }
}

async fn open(log: &dyn WriteLog) -> u64 {
    log.open_epoch("a", NOW).await.unwrap().0
}

fn new(epoch: u64, seq: u64) -> Appended {
    Appended::New(Position { epoch, seq })
}

fn seqs(entries: &[leveret_core::broadcast::Logged]) -> Vec<u64> {
    entries.iter().map(|entry| entry.position.seq).collect()
}

async fn numbers_without_gaps(log: &dyn WriteLog) {
    assert_eq!(&*log.cluster().await.unwrap(), "c1");
    let (epoch, last) = log.open_epoch("a", NOW).await.unwrap();
    assert_eq!(last, Position::default());
    let batch = vec![write(1, None), write(2, None)];
    let appended = log.append(epoch, batch, NOW).await.unwrap();
    assert_eq!(appended, [new(epoch, 1), new(epoch, 2)]);
    let next = log.open_epoch("a", NOW).await.unwrap();
    assert!(next.0 > epoch, "an epoch is above all before");
    assert_eq!(next.1, Position { epoch, seq: 2 });
    let appended = log.append(next.0, vec![write(3, None)], NOW).await.unwrap();
    assert_eq!(appended, [new(next.0, 3)], "seqs go on across epochs");

    let entries = log.after(1, 10, BYTES).await.unwrap();
    assert_eq!(seqs(&entries), [2, 3]);
    assert_eq!(entries[0].write, write(2, None).write);
    assert_eq!(entries[0].position.epoch, epoch);
    assert_eq!(seqs(&log.after(0, 2, BYTES).await.unwrap()), [1, 2]);
    assert_eq!(
        seqs(&log.after(0, 9, 1).await.unwrap()),
        [1],
        "one at least"
    );
    assert_eq!(log.after(3, 10, BYTES).await.unwrap(), []);
    let last = Position {
        epoch: next.0,
        seq: 3,
    };
    assert_eq!(log.last().await.unwrap(), last);
}

async fn keys(log: &dyn WriteLog) {
    let epoch = open(log).await;
    // The second is the first again, within one batch; it takes no seq.
    let batch = vec![
        write(1, Some(("k", 1))),
        write(1, Some(("k", 1))),
        write(2, Some(("k", 2))),
        write(3, None),
    ];
    let appended = log.append(epoch, batch, NOW).await.unwrap();
    let first = Position { epoch, seq: 1 };
    let expected = [
        new(epoch, 1),
        Appended::Known(first),
        Appended::KeyTaken,
        new(epoch, 2),
    ];
    assert_eq!(appended, expected);
    let again = open(log).await;
    let batch = vec![write(1, Some(("k", 1))), write(9, Some(("k", 9)))];
    let appended = log.append(again, batch, NOW).await.unwrap();
    assert_eq!(appended, [Appended::Known(first), Appended::KeyTaken]);

    assert_eq!(log.outcome(1).await.unwrap(), None);
    let failed = Outcome::Failed(SqlError {
        code: "SQLITE_CONSTRAINT_UNIQUE".to_owned(),
        message: "taken".to_owned(),
        statement: 0,
    });
    let done = Outcome::Done(vec![StatementResult::default()]);
    let outcomes = vec![(1, failed.clone()), (2, done.clone())];
    log.settle(outcomes).await.unwrap();
    assert_eq!(log.outcome(1).await.unwrap(), Some(failed.clone()));
    assert_eq!(log.outcome(2).await.unwrap(), None, "it has no key");
    log.settle(vec![(1, done)]).await.unwrap();
    assert_eq!(
        log.outcome(1).await.unwrap(),
        Some(failed),
        "the first stays"
    );

    log.truncate(0, Timestamp(NOW.0 + 1)).await.unwrap();
    let batch = vec![write(9, Some(("k", 9)))];
    let appended = log.append(again, batch, NOW).await.unwrap();
    assert_eq!(appended, [new(again, 3)], "an old key is forgotten");
}

fn is_fenced<T>(result: &Result<T, LogError>, by: u64) -> bool {
    matches!(result, Err(LogError::Fenced { epoch }) if *epoch == by)
}

async fn fencing(log: &dyn WriteLog) {
    let old = open(log).await;
    let epoch = open(log).await;
    assert!(is_fenced(
        &log.append(old, vec![write(1, None)], NOW).await,
        epoch
    ));
    assert!(is_fenced(&log.keep(old, NOW).await, epoch));
    assert!(is_fenced(&log.put_fact(old, "a", "1").await, epoch));
    assert_eq!(log.last().await.unwrap(), Position::default());
    log.keep(epoch, NOW).await.unwrap();
}

async fn leases(log: &dyn WriteLog) {
    let epoch = open(log).await;
    let held = log.open_epoch("b", NOW).await;
    assert!(matches!(held, Err(LogError::Held { owner, .. }) if owner == "a"));
    log.keep(epoch, NOW).await.unwrap();
    let taken_back = log.open_epoch("a", NOW).await.unwrap().0;
    assert!(taken_back > epoch, "its own lease is taken back at once");
    // A log with a clock of its own does not look at ours: it is asked until the lease has run out.
    let later = Timestamp(NOW.0) + LOG_LEASE;
    let taken_over = async {
        loop {
            match log.open_epoch("b", later).await {
                Err(LogError::Held { .. }) => tokio::task::yield_now().await,
                other => break other,
            }
        }
    };
    let taken_over = tokio::time::timeout(LOG_LEASE * 3, taken_over).await;
    let (epoch, _) = taken_over.expect("a lease ends").unwrap();
    assert!(is_fenced(
        &log.append(taken_back, vec![write(1, None)], later).await,
        epoch
    ));
}

/// A heart that gives its lease up is followed at once; one that was followed gives nothing up.
async fn releases(log: &dyn WriteLog) {
    let first = open(log).await;
    log.append(first, vec![write(1, None)], NOW).await.unwrap();
    log.release(first).await.unwrap();
    let (second, last) = log.open_epoch("b", NOW).await.unwrap();
    assert!(second > first);
    assert_eq!(last.seq, 1);
    assert!(is_fenced(&log.release(first).await, second));
    let held = log.open_epoch("a", NOW).await;
    assert!(matches!(held, Err(LogError::Held { owner, .. }) if owner == "b"));
}

async fn truncation(log: &dyn WriteLog) {
    let epoch = open(log).await;
    let batch = (1..=5).map(|number| write(number, None)).collect();
    log.append(epoch, batch, NOW).await.unwrap();
    let (bytes, oldest) = log.size().await.unwrap();
    assert!(bytes > 0);
    assert_eq!(oldest, 1);
    assert_eq!(log.truncate(3, Timestamp(0)).await.unwrap(), 3);
    assert_eq!(log.size().await.unwrap().1, 4);
    let gone = log.after(2, 10, BYTES).await;
    assert!(matches!(gone, Err(LogError::Truncated { oldest: 4 })));
    assert_eq!(seqs(&log.after(3, 10, BYTES).await.unwrap()), [4, 5]);
    assert_eq!(log.truncate(9, Timestamp(0)).await.unwrap(), 2);
    assert_eq!(log.last().await.unwrap(), Position { epoch, seq: 5 });
    let appended = log.append(epoch, vec![write(6, None)], NOW).await.unwrap();
    assert_eq!(appended, [new(epoch, 6)], "seqs go on behind what is gone");
}

async fn recovery(log: &dyn WriteLog) {
    let old = open(log).await;
    log.append(old, vec![write(1, None)], NOW).await.unwrap();
    let end = Position { epoch: 70, seq: 9 };
    let epoch = log.recover("a", "c2", end, NOW).await.unwrap();
    assert!(epoch > 70);
    assert_eq!(&*log.cluster().await.unwrap(), "c2");
    assert_eq!(log.last().await.unwrap(), end);
    assert!(is_fenced(
        &log.append(old, vec![write(2, None)], NOW).await,
        epoch
    ));
    let appended = log.append(epoch, vec![write(2, None)], NOW).await.unwrap();
    assert_eq!(appended, [new(epoch, 10)]);
    let gone = log.after(0, 10, BYTES).await;
    assert!(matches!(gone, Err(LogError::Truncated { oldest: 10 })));
}

async fn facts(log: &dyn WriteLog) {
    let epoch = open(log).await;
    log.put_fact(epoch, "b", "1").await.unwrap();
    log.put_fact(epoch, "a", "{}").await.unwrap();
    log.put_fact(epoch, "b", "2").await.unwrap();
    let expected = [("a", "{}"), ("b", "2")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(log.facts().await.unwrap(), expected);
}

/// Batches of several callers do not mix, and no seq is given twice.
async fn appends_side_by_side(log: Arc<dyn WriteLog>) {
    let epoch = open(&*log).await;
    let callers = (0..8).map(|caller| {
        let log = log.clone();
        tokio::spawn(async move {
            let batch = (0..20).map(|number| write(caller * 100 + number, None));
            log.append(epoch, batch.collect(), NOW).await.unwrap()
        })
    });
    let mut all = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        let appended = caller.await.unwrap();
        let seqs = appended.iter().map(|one| match one {
            Appended::New(position) => position.seq,
            other => panic!("{other:?}"),
        });
        let seqs: Vec<u64> = seqs.collect();
        assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1));
        all.extend(seqs);
    }
    all.sort_unstable();
    assert_eq!(all, (1..=160).collect::<Vec<_>>());
}
