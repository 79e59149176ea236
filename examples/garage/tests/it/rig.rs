//! Processes of the garage, and foreign ends: plain HTTP, and an AMQP client that knows nothing of Leveret.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    message::BasicGetMessage,
    options::{
        BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::FieldTable,
};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tokio_postgres::NoTls;

use crate::courses::{Apis, Course, GATEWAY_QUEUE, PAUSE};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// What all tokens are signed with.
const JWT_SECRET: &str = "a secret of these tests alone, long enough";
/// What the gateway signs with.
const WEBHOOK_SECRET: &str = "a secret of the gateway and us";

pub(crate) const EXCHANGE: &str = "garage-events";
pub(crate) const ROLES: [&str; 3] = ["os", "billing", "execution"];

/// The queues of a service, without those of delays and dead letters.
pub(crate) fn queues(role: &str) -> &'static [&'static str] {
    match role {
        "os" => &[
            "os-quote-created",
            "os-quote-sent",
            "os-quote-approved",
            "os-quote-rejected",
            "os-payment-approved",
            "os-payment-rejected",
            "os-payment-failed",
            "os-execution-status-changed",
            "os-execution-completed",
            "os-execution-failed",
            "os-saga-timeline",
        ],
        "billing" => &[
            "billing-work-order-created",
            "billing-work-order-status-changed",
            "billing-work-order-approved",
            "billing-work-order-cancelled",
            "billing-execution-failed",
            "billing-gateway",
        ],
        _ => &[
            "execution-quote-approved",
            "execution-payment-approved",
            "execution-work-order-cancelled",
            "execution-work-order-status-changed",
        ],
    }
}

/// The servers of a test: RabbitMQ without any queue of the garage, databases that are empty.
pub(crate) struct Place {
    pub(crate) amqp: String,
    stores: HashMap<&'static str, String>,
    postgres: String,
    databases: Vec<String>,
}

impl Place {
    /// None: the servers are not given, and the test is skipped.
    pub(crate) async fn new(test: &str) -> Option<Place> {
        let (amqp, postgres, mongodb) = (
            given("LEVERET_TEST_AMQP_URL")?,
            given("LEVERET_TEST_POSTGRES_URL")?,
            given("LEVERET_TEST_MONGODB_URL")?,
        );
        Some(Place::at(test, amqp, postgres, mongodb).await)
    }

    /// With these servers.
    pub(crate) async fn at(test: &str, amqp: String, postgres: String, mongodb: String) -> Place {
        let foreign = Foreign::new(&amqp).await;
        for queue in ROLES.into_iter().flat_map(queues) {
            for suffix in [
                "",
                ".dlq",
                ".suspects",
                ".retry.100ms",
                ".retry.200ms",
                ".retry.400ms",
            ] {
                foreign.delete(&format!("{queue}{suffix}")).await;
            }
        }
        let name = |role: &str| format!("garage_{test}_{role}_{}", std::process::id());
        let databases = vec![name("os"), name("execution")];
        for database in &databases {
            execute(&postgres, &format!("CREATE DATABASE {database}")).await;
        }
        let beside = |url: &str, name: &str| {
            let (base, _) = url.rsplit_once('/').expect("the URL names a database");
            format!("{base}/{name}")
        };
        let stores = [
            ("os", beside(&postgres, &databases[0])),
            ("execution", beside(&postgres, &databases[1])),
            ("billing", beside(&mongodb, &name("billing"))),
        ];
        Place {
            amqp,
            stores: stores.into(),
            postgres,
            databases,
        }
    }

    /// Removes the databases of PostgreSQL.
    pub(crate) async fn remove(self) {
        for database in &self.databases {
            let drop = format!("DROP DATABASE {database} WITH (FORCE)");
            execute(&self.postgres, &drop).await;
        }
    }
}

pub(crate) fn given(variable: &str) -> Option<String> {
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

/// A process of `garage`, killed when dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Runs `garage` with these arguments until it says where it listens; a crash point it may come to before that.
    fn start(args: &[String], crash_at: Option<&str>) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_garage"));
        command
            .args(args)
            .env("JWT_SECRET", JWT_SECRET)
            .env("MERCADO_PAGO_ACCESS_TOKEN", "a token of these tests")
            .env("MERCADO_PAGO_WEBHOOK_SECRET", WEBHOOK_SECRET)
            .stdout(Stdio::piped());
        if let Some(at) = crash_at {
            command.env("LEVERET_CRASH_AT", at);
        }
        let mut child = command.spawn().expect("starts");
        let stdout = child.stdout.take().expect("piped");
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.contains("listens at http://") {
                    let _ = tell.send(());
                }
            }
        });
        match told.recv_timeout(PATIENCE) {
            Ok(()) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                assert!(crash_at.is_some(), "it ended before it listened: {args:?}");
            }
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not listen: {args:?}"),
        }
        Process(child)
    }

    /// Asks it to end, which it must well.
    fn stop(mut self) {
        let told = Command::new("kill").arg(self.0.id().to_string()).status();
        assert!(told.expect("kill").success());
        let ended = self.0.wait().expect("ended");
        assert!(ended.success(), "{ended}");
    }

    /// Whether it has ended, which it must by SIGKILL.
    fn is_killed(&mut self) -> bool {
        let ended = self.0.try_wait().expect("a child");
        if let Some(status) = ended {
            assert_eq!(status.signal(), Some(9), "{status}");
        }
        ended.is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A port that nobody has just now.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("bound").port()
}

/// A token of the garage's.
pub(crate) fn token(role: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_garage"))
        .args(["token", "--role", role])
        .env("JWT_SECRET", JWT_SECRET)
        .output()
        .expect("runs");
    assert!(output.status.success(), "{output:?}");
    let token = String::from_utf8(output.stdout).expect("text");
    token.trim().to_owned()
}

/// The three services and the gateway, each a process, each at an address that it keeps.
pub(crate) struct Garage {
    pub(crate) place: Place,
    pub(crate) foreign: Option<Foreign>,
    ports: HashMap<&'static str, u16>,
    processes: HashMap<&'static str, Process>,
    pub(crate) api: Api,
}

impl Garage {
    /// All of them, begun.
    pub(crate) async fn start(place: Place) -> Garage {
        let mut garage = Garage::prepare(place);
        for role in ROLES {
            garage.begin(role, None);
        }
        garage.foreign = Some(Foreign::new(&garage.place.amqp).await);
        garage
    }

    /// The gateway alone.
    pub(crate) fn prepare(place: Place) -> Garage {
        let ports: HashMap<_, _> = ["gateway", "os", "billing", "execution"]
            .map(|name| (name, port()))
            .into();
        let listen = format!("127.0.0.1:{}", ports["gateway"]);
        let args = ["gateway".to_owned(), "--listen".to_owned(), listen];
        let gateway = Process::start(&args, None);
        let urls = ports.iter();
        let urls = urls.map(|(name, port)| (*name, format!("http://127.0.0.1:{port}")));
        Garage {
            api: Api {
                urls: urls.collect(),
                token: token("admin"),
                http: client(),
            },
            foreign: None,
            ports,
            processes: [("gateway", gateway)].into(),
            place,
        }
    }

    /// Begins a service, which may end at a crash point.
    pub(crate) fn begin(&mut self, role: &'static str, crash_at: Option<&str>) {
        let gateway = &self.api.urls["gateway"];
        let mut args: Vec<String> = [
            role,
            "--listen",
            &format!("127.0.0.1:{}", self.ports[role]),
            "--broker",
            &self.place.amqp,
            "--store",
            &self.place.stores[role],
            "--retry-delays",
            "100ms,200ms,400ms",
        ]
        .map(str::to_owned)
        .into();
        if role == "billing" {
            let own = &self.api.urls["billing"];
            args.extend(["--gateway", gateway, "--public-url", own].map(str::to_owned));
        }
        let process = Process::start(&args, crash_at);
        self.processes.insert(role, process);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, role: &str) {
        drop(self.processes.remove(role));
    }

    /// Lets a service finish what it has begun, and end.
    pub(crate) fn stop(&mut self, role: &str) {
        if let Some(process) = self.processes.remove(role) {
            process.stop();
        }
    }

    /// Whether a service has ended by SIGKILL.
    pub(crate) fn is_killed(&mut self, role: &str) -> bool {
        self.processes.get_mut(role).expect("begun").is_killed()
    }

    /// Waits until a service is ready.
    pub(crate) async fn ready(&self, role: &str) {
        until(&format!("{role} is ready"), async || {
            let asked = self.api.ask(role, "GET", "/health/ready", &Value::Null);
            asked.await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// Waits until nothing waits in the queues of a service. What is still there when a process ends again and again counts as what ends it, and
    /// becomes a dead letter.
    pub(crate) async fn takes_up(&self, role: &str) {
        let foreign = self.foreign.as_ref().expect("started");
        for queue in queues(role) {
            for queue in [(*queue).to_owned(), format!("{queue}.suspects")] {
                until(&format!("{queue} is empty"), async || {
                    foreign.count(&queue).await == 0
                })
                .await;
            }
        }
    }

    /// No message of any service became a dead letter, but those that name payments which the gateway did not settle.
    pub(crate) async fn no_dead_letters(&self, courses: &[Course]) {
        let foreign = self.foreign.as_ref().expect("started");
        for queue in ROLES.into_iter().flat_map(queues) {
            if *queue == GATEWAY_QUEUE && courses.iter().any(Course::gives_up) {
                continue;
            }
            let count = foreign.count(&format!("{queue}.dlq")).await;
            assert_eq!(count, 0, "dead letters of {queue}");
        }
    }

    /// Ends all, and removes what they kept.
    pub(crate) async fn remove(self) {
        let Garage {
            place, processes, ..
        } = self;
        drop(processes);
        place.remove().await;
    }
}

/// The APIs.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) urls: HashMap<&'static str, String>,
    token: String,
    http: reqwest::Client,
}

impl Api {
    /// Asks as an administrator. None: there was no answer.
    pub(crate) async fn ask(
        &self,
        role: &str,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Option<(u16, Value)> {
        Apis::ask(self, role, method, path, body, None).await
    }
}

impl Apis for Api {
    const PATIENCE: Duration = PATIENCE;

    async fn ask(
        &self,
        role: &str,
        method: &str,
        path: &str,
        body: &Value,
        key: Option<&str>,
    ) -> Option<(u16, Value)> {
        let url = format!("{}{path}", self.urls[role]);
        let mut request = self
            .http
            .request(method.parse().expect("a method"), url)
            .bearer_auth(&self.token);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let text = response.text().await.ok()?;
        let body = serde_json::from_str(&text);
        Some((status, body.unwrap_or(Value::String(text))))
    }
}

/// A client for HTTP.
fn client() -> reqwest::Client {
    // An error only says that a provider of cryptography is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy();
    let client = client.timeout(Duration::from_secs(30));
    client.build().expect("a client can be built")
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
    pub(crate) async fn new(url: &str) -> Foreign {
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

    /// A queue of this client alone that takes every event.
    pub(crate) async fn listen(&self, queue: &str) {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .expect("declares");
        self.channel
            .queue_bind(
                queue.into(),
                EXCHANGE.into(),
                "#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("binds");
    }

    pub(crate) async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) {
        self.channel
            .basic_publish(
                exchange.into(),
                routing_key.into(),
                BasicPublishOptions::default(),
                body,
                properties,
            )
            .await
            .expect("publishes");
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
