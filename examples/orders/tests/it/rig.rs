//! Processes of the orders system, and foreign ends: an AMQP client of its own, a database of its own, plain HTTP.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    message::BasicGetMessage,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::FieldTable,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::NoTls;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
pub(crate) const PAUSE: Duration = Duration::from_millis(25);

/// All queues of the system, without those of delays and dead letters.
const QUEUES: [&str; 5] = [
    "payment_queue",
    "order_queue",
    "inventory_queue",
    "refund_queue",
    "payment.gateway",
];

/// The servers of a test: RabbitMQ without any queue of the system, an empty database.
pub(crate) struct Place {
    pub(crate) amqp: String,
    pub(crate) store: String,
    server: String,
    database: String,
}

impl Place {
    /// None: the servers are not given, and the test is skipped.
    pub(crate) async fn new(test: &str) -> Option<Place> {
        let server = given("LEVERET_TEST_POSTGRES_URL")?;
        Place::at(test, &server).await
    }

    /// With the database in this PostgreSQL.
    pub(crate) async fn at(test: &str, server: &str) -> Option<Place> {
        let (amqp, server) = (given("LEVERET_TEST_AMQP_URL")?, server.to_owned());
        let foreign = Foreign::new(&amqp).await;
        for queue in QUEUES {
            let delays = ["100ms", "200ms", "400ms"].map(|delay| format!(".retry.{delay}"));
            let all = delays
                .iter()
                .map(String::as_str)
                .chain(["", ".dlq", ".suspects"])
                .map(|suffix| format!("{queue}{suffix}"));
            for name in all {
                foreign.delete(&name).await;
            }
        }
        let database = format!("orders_{test}_{}", std::process::id());
        execute(&server, &format!("CREATE DATABASE {database}")).await;
        let (base, _) = server.rsplit_once('/').expect("the URL names a database");
        Some(Place {
            store: format!("{base}/{database}"),
            amqp,
            server,
            database,
        })
    }

    /// Removes the database.
    pub(crate) async fn remove(self) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.database);
        execute(&self.server, &drop).await;
    }

    /// A foreign end.
    pub(crate) async fn foreign(&self) -> Foreign {
        Foreign::new(&self.amqp).await
    }

    /// A service in a process of its own.
    pub(crate) fn role(&self, role: &str, gateway: &Process) -> Process {
        Process::service(role, &self.amqp, &self.store, &gateway.url)
    }

    /// A service in a process of its own that ends at a crash point, `NAME:N`.
    pub(crate) fn role_crashing(&self, role: &str, gateway: &Process, at: &str) -> Process {
        let args = role_args(role, &self.amqp, &self.store, &gateway.url);
        Process::spawn(&args, Some(at))
    }

    /// All three in one process.
    pub(crate) fn up(&self, gateway: &Process) -> Process {
        self.role("up", gateway)
    }
}

fn given(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        println!("skipped: {variable} is not set");
    }
    value
}

async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("PostgreSQL answers");
    tokio::spawn(connection);
    client.batch_execute(sql).await.expect("PostgreSQL obeys");
}

/// A process of `orders`, killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) url: String,
}

impl Process {
    /// A gateway.
    pub(crate) fn gateway() -> Process {
        Process::start(&["gateway", "--listen", "127.0.0.1:0"])
    }

    /// A service, or `up`.
    pub(crate) fn service(role: &str, broker: &str, store: &str, gateway: &str) -> Process {
        Process::start(&role_args(role, broker, store, gateway))
    }

    /// Runs `orders` with these arguments until it says where it listens.
    pub(crate) fn start(args: &[&str]) -> Process {
        let process = Process::spawn(args, None);
        assert!(!process.url.is_empty(), "it ended before it listened");
        process
    }

    /// The same with a crash point, which it may come to before it listens anywhere: then its URL is empty.
    fn spawn(args: &[&str], crash_at: Option<&str>) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orders"));
        command.args(args).stdout(Stdio::piped());
        if let Some(at) = crash_at {
            command.env("LEVERET_CRASH_AT", at);
        }
        let mut child = command.spawn().expect("starts");
        let stdout = child.stdout.take().expect("piped");
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let url = line
                    .strip_prefix("listening at ")
                    .or_else(|| line.strip_prefix("the gateway listens at "));
                if let Some(url) = url {
                    drop(tell.send(url.to_owned()));
                }
            }
        });
        let url = match told.recv_timeout(PATIENCE) {
            Ok(url) => url,
            Err(mpsc::RecvTimeoutError::Disconnected) => String::new(),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not listen"),
        };
        Process { child, url }
    }

    /// Asks it to end, which it must well.
    pub(crate) fn stop(mut self) {
        let told = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(told.expect("kill").success());
        let ended = self.child.wait().expect("ended");
        assert!(ended.success(), "{ended}");
    }

    /// Whether it has ended, which it must by SIGKILL.
    pub(crate) fn is_killed(&mut self) -> bool {
        let ended = self.child.try_wait().expect("a child");
        if let Some(status) = ended {
            assert_eq!(status.signal(), Some(9), "{status}");
        }
        ended.is_some()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self) {
        until("readiness", async || {
            let (status, _) = self.get("/health/ready").await;
            status == 200
        })
        .await;
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let response = client().get(format!("{}{path}", self.url)).send().await;
        read(response.expect("answers")).await
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        let response = client().get(format!("{}{path}", self.url)).send().await;
        response.expect("answers").text().await.expect("text")
    }

    /// Sends a body as it is, with a key if there is one.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> (u16, Value) {
        let method = method.parse().expect("a method");
        let mut request = client().request(method, format!("{}{path}", self.url));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        read(request.body(body).send().await.expect("answers")).await
    }

    /// Places an order of this total for one of an item; its id.
    pub(crate) async fn order(&self, item: &str, total: i64) -> String {
        let (status, order) = self
            .send("POST", "/orders", None, order(item, total).to_string())
            .await;
        assert_eq!(status, 202, "{order}");
        order["order_id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn stock(&self, item: &str, quantity: i64) {
        let body = json!({ "quantity": quantity }).to_string();
        let (status, told) = self
            .send("PUT", &format!("/stock/{item}"), None, body)
            .await;
        assert_eq!(status, 200, "{told}");
    }

    /// Waits until an order has ended in this status.
    pub(crate) async fn ends(&self, id: &str, status: &str) -> Value {
        let path = format!("/orders/{id}");
        let mut order = Value::Null;
        until(&format!("{id} is {status}"), async || {
            order = self.get(&path).await.1;
            order["status"] == status
        })
        .await;
        order
    }
}

/// The arguments of a service.
fn role_args<'a>(role: &'a str, broker: &'a str, store: &'a str, gateway: &'a str) -> Vec<&'a str> {
    vec![
        role,
        "--listen",
        "127.0.0.1:0",
        "--broker",
        broker,
        "--store",
        store,
        "--gateway",
        gateway,
        "--retry-delays",
        "100ms,200ms,400ms",
    ]
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client for HTTP.
pub(crate) fn client() -> reqwest::Client {
    // An error only says that a provider of cryptography is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::new()
}

/// The body of an order for one of an item.
pub(crate) fn order(item: &str, total: i64) -> Value {
    json!({
        "user_id": "u1",
        "currency": "EUR",
        "items": [{ "id": item, "quantity": 1, "unit_price": total }],
    })
}

async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").cloned();
    let text = response.text().await.expect("text");
    // What is not ready says so in a form of its own.
    if status >= 400 && status != 503 {
        let kind = kind.expect("a content type");
        assert_eq!(kind, "application/problem+json", "{status} {text}");
    }
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// Looks again until it is so.
pub(crate) async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !look().await {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(PAUSE).await;
    }
}

/// A client of RabbitMQ that knows nothing of Leveret.
pub(crate) struct Foreign {
    connection: Connection,
    channel: Channel,
}

impl Foreign {
    async fn new(url: &str) -> Foreign {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .expect("RabbitMQ answers");
        let channel = connection.create_channel().await.expect("a channel");
        Foreign {
            connection,
            channel,
        }
    }

    async fn delete(&self, queue: &str) {
        let options = QueueDeleteOptions::default();
        self.channel
            .queue_delete(queue.into(), options)
            .await
            .expect("deletes");
    }

    /// Publishes the bytes of a body with nothing else.
    pub(crate) async fn bare(&self, queue: &str, body: impl AsRef<[u8]>) {
        self.publish(queue, body, BasicProperties::default()).await;
    }

    pub(crate) async fn publish(
        &self,
        queue: &str,
        body: impl AsRef<[u8]>,
        properties: BasicProperties,
    ) {
        self.channel
            .basic_publish(
                "".into(),
                queue.into(),
                BasicPublishOptions::default(),
                body.as_ref(),
                properties,
            )
            .await
            .expect("publishes");
    }

    /// A queue of this client alone.
    pub(crate) async fn own_queue(&self, name: &str) {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(name.into(), options, FieldTable::default())
            .await
            .expect("declares");
    }

    /// Answers that come by RabbitMQ's own way for them.
    pub(crate) async fn direct_replies(&self) -> Consumer {
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        self.channel
            .basic_consume(
                "amq.rabbitmq.reply-to".into(),
                "".into(),
                options,
                FieldTable::default(),
            )
            .await
            .expect("consumes")
    }

    /// The next message of a queue, taken.
    pub(crate) async fn take(&self, queue: &str) -> BasicGetMessage {
        let mut taken = None;
        until(&format!("a message in {queue}"), async || {
            taken = self.try_take(queue).await;
            taken.is_some()
        })
        .await;
        taken.expect("taken")
    }

    /// The first message of a queue, taken, if it has one now.
    pub(crate) async fn try_take(&self, queue: &str) -> Option<BasicGetMessage> {
        let options = BasicGetOptions { no_ack: true };
        let got = self.channel.basic_get(queue.into(), options).await;
        got.expect("the queue is there")
    }

    /// How many messages are ready in a queue; none if it is not there.
    pub(crate) async fn count(&self, queue: &str) -> u32 {
        let channel = self.connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await;
        declared.map_or(0, |queue| queue.message_count())
    }
}

/// The next of these.
pub(crate) async fn next(consumer: &mut Consumer) -> lapin::message::Delivery {
    let next = timeout(PATIENCE, consumer.next()).await;
    next.expect("in time").expect("goes on").expect("delivered")
}

/// A body as JSON.
pub(crate) fn json_of(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("JSON")
}

/// A sum over the lines of a metric that have this text.
pub(crate) fn sum(metrics: &str, name: &str, with: &str) -> u64 {
    let lines = metrics.lines();
    let lines = lines.filter(|line| line.starts_with(name) && line.contains(with));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// What the gateway took and gave back, after a look that no order was charged twice.
pub(crate) async fn books(gateway: &Process) -> (usize, usize) {
    let (_, told) = gateway.get("/charges").await;
    assert_eq!(told["charged_twice"], json!([]), "{told}");
    let all = told["charges"].as_array().expect("charges");
    let paid = all.iter().filter(|charge| charge["status"] != "declined");
    let refunds = told["refunds"].as_array().expect("refunds");
    (paid.count(), refunds.len())
}
