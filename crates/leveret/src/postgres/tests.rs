//! Against the server of `LEVERET_TEST_POSTGRES_URL`, in schemas that are dropped at the end.

use std::{future::Future, time::Instant};

use tokio_postgres::Client;

use super::*;

/// Runs a test with a pool in a fresh schema, which is dropped also when the test fails.
async fn in_schema<Fut>(test: impl FnOnce(PoolOptions) -> Fut)
where
    Fut: Future<Output = ()> + Send + 'static,
{
    let Ok(url) = std::env::var("LEVERET_TEST_POSTGRES_URL") else {
        println!("skipped: LEVERET_TEST_POSTGRES_URL is not set");
        return;
    };
    let schema = format!("leveret test \"{:016x}", fastrand::u64(..));
    let options = PoolOptions::new(url, schema);
    let outcome = tokio::spawn(test(options.clone())).await;
    let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&options.schema));
    let admin = admin(options).await;
    admin.batch_execute(&drop).await.expect("drops the schema");
    outcome.expect("the test");
}

async fn admin(options: PoolOptions) -> Client {
    let target = options.target().expect("a URL");
    target.connect().await.expect("connects")
}

async fn pool(options: &PoolOptions) -> Pool {
    Pool::connect(options.clone()).await.expect("connects")
}

/// Components of one schema do not see each other's versions, and schemas nothing of each other.
#[tokio::test]
async fn versions_are_of_a_component_in_a_schema() {
    in_schema(|options| async move {
        let pool = pool(&options).await;
        let first = ["CREATE TABLE a (x integer)"];
        let second = [
            "CREATE TABLE a (x integer)",
            "ALTER TABLE a ADD COLUMN y integer",
        ];
        assert_eq!(pool.migrate("a", &first).await.unwrap(), (0, 1));
        assert_eq!(
            pool.migrate("b", &["CREATE TABLE b ()"]).await.unwrap(),
            (0, 1)
        );
        assert_eq!(pool.migrate("a", &second).await.unwrap(), (1, 2));
        assert_eq!(pool.migrate("a", &second).await.unwrap(), (2, 2));
        pool.check("a", &second).await.unwrap();
        let older = pool.check("b", &second).await.unwrap_err().to_string();
        assert_eq!(
            older,
            "the tables of b have version 1, this program needs 2: apply the migrations first"
        );
        let newer = pool.migrate("a", &first).await.unwrap_err();
        assert_eq!(newer.reason(), Reason::Schema, "{newer}");
        let mut lease = pool.lease().await.unwrap();
        lease.query("SELECT x, y FROM a", &[]).await.unwrap();
        drop(lease);
        let other = PoolOptions {
            schema: format!("{} 2", options.schema),
            ..options
        };
        let other_pool = Pool::connect(other.clone()).await.unwrap();
        assert_eq!(other_pool.migrate("a", &first).await.unwrap(), (0, 1));
        let drop = format!("DROP SCHEMA {} CASCADE", quoted(&other.schema));
        admin(other).await.batch_execute(&drop).await.unwrap();
    })
    .await;
}

/// A migration that fails leaves nothing of itself or of those before it.
#[tokio::test]
async fn a_migration_happens_entirely_or_not_at_all() {
    in_schema(|options| async move {
        let pool = pool(&options).await;
        let broken = pool
            .migrate("a", &["CREATE TABLE a ()", "CREATE TABEL b ()"])
            .await;
        assert_eq!(broken.unwrap_err().reason(), Reason::Refused);
        assert_eq!(
            pool.migrate("a", &["CREATE TABLE a ()"]).await.unwrap(),
            (0, 1)
        );
    })
    .await;
}

#[tokio::test]
async fn a_version_without_a_name_is_the_stores() {
    in_schema(|options| async move {
        let schema = quoted(&options.schema);
        let before = format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {schema}.schema_version (version integer NOT NULL);
             INSERT INTO {schema}.schema_version VALUES (1)"
        );
        admin(options.clone()).await.batch_execute(&before).await.unwrap();
        let pool = pool(&options).await;
        let migrations = ["CREATE TABLE never ()", "CREATE TABLE now ()"];
        assert_eq!(pool.migrate("store", &migrations).await.unwrap(), (1, 2));
        assert_eq!(pool.migrate("b", &["CREATE TABLE b ()"]).await.unwrap(), (0, 1));
        let never = pool.lease().await.unwrap().query("SELECT FROM never", &[]).await;
        assert_eq!(never.unwrap_err().reason(), Reason::Refused);
    })
    .await;
}

/// Waiting for a connection ends, and what was returned is used again.
#[tokio::test]
async fn a_lease_is_waited_for_so_long() {
    in_schema(|options| async move {
        let pool = Pool::connect(PoolOptions {
            connections_max: 1,
            lease_timeout: Duration::from_millis(50),
            ..options
        });
        let pool = pool.await.unwrap();
        let mut lease = pool.lease().await.unwrap();
        let busy = pool.lease().await.err().expect("all are in use");
        assert_eq!(busy.reason(), Reason::Unavailable, "{busy}");
        let pid = "SELECT pg_backend_pid()";
        let first: i32 = lease.query(pid, &[]).await.unwrap()[0].get(0);
        drop(lease);
        let mut lease = pool.lease().await.unwrap();
        let second: i32 = lease.query(pid, &[]).await.unwrap()[0].get(0);
        assert_eq!(first, second);
        drop(lease);
        pool.close().await;
        let closed = pool.lease().await.err().expect("is closed");
        assert_eq!(closed.reason(), Reason::Closed);
    })
    .await;
}

/// A server that takes the connection and says nothing does not hold its caller up for ever.
#[tokio::test]
async fn connecting_is_bounded() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u:secret@{}/d", silent.local_addr().unwrap());
    let options = PoolOptions {
        connect_timeout: Duration::from_millis(100),
        ..PoolOptions::new(url, "s")
    };
    let begun = Instant::now();
    let error = Pool::connect(options).await.err().expect("nobody answers");
    assert_eq!(error.reason(), Reason::Unavailable, "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}
