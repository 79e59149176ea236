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

/// A lease that is held for too long fails, and its connection is not used again.
#[tokio::test]
async fn a_call_is_bounded() {
    in_schema(|options| async move {
        let pool = Pool::connect(PoolOptions {
            connections_max: 1,
            call_max: Some(Duration::from_millis(200)),
            ..options
        });
        let pool = pool.await.unwrap();
        let mut lease = pool.lease().await.unwrap();
        let slow = lease.query("SELECT pg_sleep(60)", &[]).await.unwrap_err();
        assert_eq!(slow.reason(), Reason::Unavailable, "{slow}");
        drop(lease);
        let mut lease = pool.lease().await.unwrap();
        lease.query("SELECT 1", &[]).await.unwrap();
    })
    .await;
}

/// A database of this server, by its name.
fn url_of(options: &PoolOptions, database: &str) -> String {
    let (server, _) = options.url.rsplit_once('/').expect("names a database");
    format!("{server}/{database}")
}

#[tokio::test]
async fn a_database_that_is_not_utf_8_is_refused() {
    in_schema(|options| async move {
        let name = format!("leveret_test_{:016x}", fastrand::u64(..));
        let admin = admin(options.clone()).await;
        let make = format!(
            "CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        );
        admin.batch_execute(&make).await.unwrap();
        let url = url_of(&options, &name);
        let connected = Pool::connect(PoolOptions { url, ..options }).await;
        let drop = format!("DROP DATABASE {name} WITH (FORCE)");
        admin.batch_execute(&drop).await.unwrap();
        let error = connected.err().expect("is refused");
        assert_eq!(error.reason(), Reason::Refused);
        assert!(error.to_string().contains("LATIN1"), "{error}");
    })
    .await;
}

/// A PgBouncer before the server, ended with this.
struct Bouncer {
    process: tokio::process::Child,
    url: String,
}

impl Bouncer {
    /// `None`, which is told, where there is no such program.
    async fn start(options: &PoolOptions, mode: &str) -> Option<Bouncer> {
        let server: tokio_postgres::Config = options.url.parse().unwrap();
        let tokio_postgres::config::Host::Tcp(host) = &server.get_hosts()[0] else {
            panic!("the server is reached by TCP");
        };
        let (port, user) = (
            server.get_ports()[0],
            server.get_user().unwrap_or("postgres"),
        );
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap().port();
        drop(free);
        let file = std::env::temp_dir().join(format!("leveret-bouncer-{listen}.ini"));
        let config = format!(
            "[databases]\n* = host={host} port={port} user={user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {listen}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
        );
        std::fs::write(&file, config).unwrap();
        let mut command = tokio::process::Command::new("pgbouncer");
        // It does not work as root.
        if std::process::Command::new("id")
            .arg("-u")
            .output()
            .unwrap()
            .stdout
            == b"0\n"
        {
            command.args(["-u", "postgres"]);
        }
        command.arg(&file).kill_on_drop(true);
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let Ok(process) = command.spawn() else {
            println!("skipped: there is no pgbouncer");
            return None;
        };
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", listen))
            .await
            .is_err()
        {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "pgbouncer does not listen"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::remove_file(&file).unwrap();
        let database = server.get_dbname().unwrap_or("postgres");
        let url = format!("postgres://{user}@127.0.0.1:{listen}/{database}");
        Some(Bouncer { process, url })
    }
}

/// A pooler that hands out sessions by the transaction loses what is prepared and set; it is told at the start.
#[tokio::test]
async fn a_pooler_is_used_by_the_session_only() {
    in_schema(|options| async move {
        for (mode, fits) in [
            ("transaction", false),
            ("statement", false),
            ("session", true),
        ] {
            let Some(mut bouncer) = Bouncer::start(&options, mode).await else {
                return;
            };
            let url = bouncer.url.clone();
            let connected = Pool::connect(PoolOptions {
                url,
                ..options.clone()
            })
            .await;
            match connected {
                Ok(pool) => {
                    assert!(fits, "{mode}");
                    pool.migrate("a", &["CREATE TABLE a ()"]).await.unwrap();
                    pool.lease()
                        .await
                        .unwrap()
                        .query("SELECT FROM a", &[])
                        .await
                        .unwrap();
                    pool.close().await;
                }
                Err(error) => {
                    assert!(
                        !fits && error.reason() == Reason::Refused,
                        "{mode}: {error}"
                    );
                    assert!(error.to_string().contains("PgBouncer"), "{error}");
                }
            }
            bouncer.process.kill().await.unwrap();
        }
    })
    .await;
}

/// Tables in a schema that an administrator made, by a user who may make none.
#[tokio::test]
async fn a_schema_that_is_there_needs_no_right_to_make_one() {
    in_schema(|options| async move {
        let admin = admin(options.clone()).await;
        let (user, schema) = (
            format!("leveret_test_{:016x}", fastrand::u64(..)),
            quoted(&options.schema),
        );
        let database: String = admin
            .query_one("SELECT current_database()", &[])
            .await
            .unwrap()
            .get(0);
        let make = format!(
            "CREATE ROLE {user} LOGIN; REVOKE CREATE ON DATABASE {database} FROM PUBLIC;
             CREATE SCHEMA {schema}; GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}"
        );
        admin.batch_execute(&make).await.unwrap();
        let (_, server) = options.url.split_once('@').expect("names a user");
        let url = format!("postgres://{user}@{server}");
        let migrated = async {
            let pool = Pool::connect(PoolOptions {
                url,
                ..options.clone()
            })
            .await?;
            pool.migrate("a", &["CREATE TABLE a ()"]).await
        };
        let migrated = migrated.await;
        let drop = format!("DROP SCHEMA {schema} CASCADE; DROP ROLE {user}");
        admin.batch_execute(&drop).await.unwrap();
        assert_eq!(migrated.unwrap(), (0, 1));
    })
    .await;
}
