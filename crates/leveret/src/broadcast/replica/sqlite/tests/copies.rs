//! Snapshots, and what takes the place of a database.

use super::*;
use crate::broadcast::Snapshot;

async fn filled(rows: usize) -> Fixture {
    let mut fixture = Fixture::new().await;
    let insert = format!(
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t (v) SELECT hex(randomblob(50)) FROM n"
    );
    fixture
        .apply(&[
            write("CREATE TABLE t (v, w AS (length(v)))"),
            write(&insert),
            write("DELETE FROM t WHERE rowid % 3 = 0"),
        ])
        .await;
    fixture
}

fn beside(path: &TempPath, name: &str) -> PathBuf {
    let mut path = path.0.clone().into_os_string();
    path.push(name);
    path.into()
}

/// A snapshot is of one position although writes go on, row ids and gaps included; a replica that has it and replays the rest is equal.
#[tokio::test]
async fn a_snapshot_and_replay_make_an_equal_replica() {
    let mut source = filled(20_000).await;
    let to = beside(&source.path, ".snapshot");
    let inserts: Vec<_> = (0..40)
        .map(|n| logged(4 + n, write("INSERT INTO t (v) VALUES (random())")))
        .collect();
    let replica = source.replica();
    let applying = async {
        for insert in inserts.clone() {
            replica.apply(vec![insert]).await.unwrap();
        }
    };
    let (taken, ()) = tokio::join!(replica.snapshot(to.clone()), applying);
    let taken = taken.unwrap();
    assert_eq!(taken.cluster.as_deref(), Some("test"));
    assert!((3..=43).contains(&taken.position.seq));

    let target = Fixture::new().await;
    let own = target.replica().standing().await.unwrap().database_id;
    target.replica().restore(taken.clone()).await.unwrap();
    let standing = target.replica().standing().await.unwrap();
    assert_eq!(
        (&standing.database_id, standing.position),
        (&own, taken.position)
    );
    let rest = inserts
        .into_iter()
        .filter(|one| one.position.seq > taken.position.seq);
    target.replica().apply(rest.collect()).await.unwrap();
    let contents = source.replica().contents(Contents::All).await.unwrap();
    assert_eq!(contents.0.seq, 43);
    assert_eq!(
        target.replica().contents(Contents::All).await.unwrap(),
        contents
    );
    let hash = source.replica().standing().await.unwrap().hash;
    assert_eq!(target.replica().standing().await.unwrap().hash, hash);
    let missed = target.replica().outcomes(41, 10).await.unwrap();
    assert_eq!(missed, source.replica().outcomes(41, 10).await.unwrap());
    assert_eq!(missed.len(), 2);
    source.next = 44;
    std::fs::remove_file(to).unwrap();
}

#[tokio::test]
async fn a_damaged_snapshot_changes_nothing() {
    let source = filled(100).await;
    let to = beside(&source.path, ".snapshot");
    let taken = source.replica().snapshot(to.clone()).await.unwrap();
    let target = filled(10).await;
    let before = target.replica().contents(Contents::All).await.unwrap();
    let check = async |snapshot: Snapshot| {
        let refused = target.replica().restore(snapshot).await.unwrap_err();
        assert!(
            matches!(refused, ReplicaError::BadSnapshot { .. }),
            "{refused:?}"
        );
        assert_eq!(
            target.replica().contents(Contents::All).await.unwrap(),
            before
        );
        let left = target.path.0.with_extension("db.restoring");
        assert!(!left.exists());
    };
    check(Snapshot {
        digest: [0; 32],
        ..taken.clone()
    })
    .await;
    check(Snapshot {
        position: Position { epoch: 1, seq: 99 },
        ..taken.clone()
    })
    .await;
    std::fs::write(&to, b"no database").unwrap();
    check(taken).await;
    std::fs::remove_file(to).unwrap();
}

/// What a crash leaves of a restore is removed, and the old contents are there.
#[tokio::test]
async fn a_crash_before_the_exchange_leaves_the_old_contents() {
    let mut fixture = filled(10).await;
    let before = fixture.replica().contents(Contents::All).await.unwrap();
    let left = beside(&fixture.path, ".restoring");
    std::fs::write(&left, b"half a file").unwrap();
    fixture.reopen().await;
    assert!(!left.exists());
    assert_eq!(
        fixture.replica().contents(Contents::All).await.unwrap(),
        before
    );
}

#[tokio::test]
async fn a_cleared_replica_stands_before_the_first_write() {
    let mut fixture = filled(10).await;
    let before = fixture.replica().standing().await.unwrap();
    let contents = fixture.replica().contents(Contents::All).await.unwrap();
    fixture.replica().clear().await.unwrap();
    let standing = fixture.replica().standing().await.unwrap();
    let expected = Standing {
        position: Position::default(),
        hash: 0,
        has_tables: false,
        ..before.clone()
    };
    assert_eq!(standing, expected);
    assert!(fixture.replica().outcomes(0, 10).await.unwrap().is_empty());
    fixture.next = 1;
    let insert = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 10)
         INSERT INTO t (v) SELECT hex(randomblob(50)) FROM n";
    fixture
        .apply(&[
            write("CREATE TABLE t (v, w AS (length(v)))"),
            write(insert),
            write("DELETE FROM t WHERE rowid % 3 = 0"),
        ])
        .await;
    assert_eq!(
        fixture.replica().contents(Contents::All).await.unwrap(),
        contents
    );
    assert_eq!(fixture.replica().standing().await.unwrap(), before);
}
