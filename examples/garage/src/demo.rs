//! `garage demo`: plays every course that a work order can take, and shows what came of each.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};
use uuid::Uuid;

use crate::{
    bind,
    client::Client,
    gateway,
    ids::Id,
    on_signal,
    settings::{DemoArgs, Settings},
    stack::{self, Place, Role, Stack},
    timeline,
};

/// How long all courses may take.
const TIME_MAX: Duration = Duration::from_secs(50);
/// Between looks at end states.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs the demo: exit code 0 only if every course ends as it should and the gateway's books agree.
pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let data = std::env::temp_dir().join(format!("garage-demo-{}", Uuid::now_v7()));
    let played = play(args, &data).await;
    // What is left of a directory in the place for temporary files does no harm.
    drop(std::fs::remove_dir_all(&data));
    played
}

async fn play(args: &DemoArgs, data: &Path) -> anyhow::Result<()> {
    let mut stopped = on_signal()?;
    let begun = Instant::now();
    let (stack, settings) = Stack::local(args.keep, data, &stopped).await?;
    let services = stack.apis();
    let urls: Vec<_> = services
        .iter()
        .map(|(role, url, _)| format!("{} at {url}", role.name()))
        .collect();
    println!("{}\n", urls.join(", "));
    let (end, ended) = watch::channel(false);
    let serving = tokio::spawn(stack.serve(ended));
    let played = tokio::select! {
        played = tokio::time::timeout(TIME_MAX, courses(services, &settings)) => {
            played.with_context(|| format!("not all courses ended within {TIME_MAX:?}"))?
        }
        _ = stopped.wait_for(|stop| *stop) => anyhow::bail!("interrupted before all courses ended"),
    };
    let token = played?;
    println!(
        "all as it should be, in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    if args.keep {
        println!(
            "\nit stays; Ctrl-C ends it. An administrator's token for the next 8 hours:\n{token}"
        );
        drop(stopped.wait_for(|stop| *stop).await);
    }
    end.send_replace(true);
    serving.await?
}

/// Plays all at once, and shows them one after the other; a token.
async fn courses(
    services: Vec<(Role, String, leveret::service::Service)>,
    settings: &Settings,
) -> anyhow::Result<String> {
    let client = Client::new(services, settings).await?;
    let mut playing = JoinSet::new();
    for (at, course) in COURSES.iter().enumerate() {
        let client = client.clone();
        playing.spawn(async move { (at, course.play(&client).await) });
    }
    let mut played: Vec<_> = playing.join_all().await;
    played.sort_by_key(|(at, _)| *at);
    let mut wrong = 0;
    for ((_, shown), course) in played.into_iter().zip(COURSES) {
        let (text, is_right) = shown.with_context(|| format!("the course '{}'", course.name))?;
        println!("== {}\n\n{text}", course.name);
        wrong += u32::from(!is_right);
    }
    anyhow::ensure!(wrong == 0, "{wrong} courses ended otherwise");
    check_books(&client.books(&settings.gateway).await?)?;
    Ok(client.token)
}

/// What the gateway did: what was paid is what was charged, what was given back is what was refunded, nothing twice.
fn check_books(books: &Value) -> anyhow::Result<()> {
    let count = |name: &str| books[name].as_array().map_or(0, Vec::len);
    let refunds = COURSES
        .iter()
        .filter(|course| course.payment == ["REFUNDED"]);
    let expected = refunds.count();
    println!(
        "the gateway says: {} refunds; charged twice: {}, refunded twice: {}",
        count("refunds"),
        books["charged_twice"],
        books["refunded_twice"]
    );
    anyhow::ensure!(
        books["charged_twice"] == json!([]) && books["refunded_twice"] == json!([]),
        "money moved twice: {books}"
    );
    anyhow::ensure!(
        count("refunds") == expected,
        "{expected} refunds were expected: {books}"
    );
    Ok(())
}

/// A course, and what has to come of it.
struct Course {
    name: &'static str,
    kind: Kind,
    amount: &'static str,
    work_order: &'static str,
    quote: &'static [&'static str],
    payment: &'static [&'static str],
    execution: &'static [&'static str],
    /// What happens last: events that have to be in the timeline.
    events: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Kind {
    Happy,
    PaymentRejected,
    QuoteRejected,
    CancelledBefore,
    CancelledAfter,
    RepairFails,
}

const COURSES: &[Course] = &[
    Course {
        name: "all goes well",
        kind: Kind::Happy,
        amount: "150.00",
        work_order: "COMPLETED",
        quote: &["APPROVED"],
        payment: &["APPROVED"],
        execution: &["COMPLETED"],
        events: &["execution.completed"],
    },
    Course {
        name: "the payment is rejected",
        kind: Kind::PaymentRejected,
        amount: "150.01",
        work_order: "APPROVED",
        quote: &["APPROVED"],
        payment: &["REJECTED"],
        execution: &["QUEUED"],
        events: &["payment.rejected", "execution.created"],
    },
    Course {
        name: "the customer rejects the quote",
        kind: Kind::QuoteRejected,
        amount: "150.00",
        work_order: "CANCELLED",
        quote: &["REJECTED"],
        payment: &[],
        execution: &[],
        events: &["work-order.cancelled"],
    },
    Course {
        name: "cancelled before it is paid",
        kind: Kind::CancelledBefore,
        amount: "150.00",
        work_order: "CANCELLED",
        quote: &["APPROVED"],
        payment: &[],
        execution: &["FAILED"],
        events: &["work-order.cancelled", "execution.failed"],
    },
    Course {
        name: "cancelled when it is paid",
        kind: Kind::CancelledAfter,
        amount: "150.00",
        work_order: "CANCELLED",
        quote: &["APPROVED"],
        payment: &["REFUNDED"],
        execution: &["FAILED"],
        events: &["execution.failed", "payment.refunded"],
    },
    Course {
        name: "the repair fails",
        kind: Kind::RepairFails,
        amount: "150.00",
        work_order: "CANCELLED",
        quote: &["APPROVED"],
        payment: &["REFUNDED"],
        execution: &["FAILED"],
        events: &["work-order.cancelled", "payment.refunded"],
    },
];

impl Course {
    /// Plays it; what came of it as text, and whether that is right.
    async fn play(&self, client: &Client) -> anyhow::Result<(String, bool)> {
        let order = client.open(self.amount).await?;
        self.act(client, &order).await?;
        client.ends(&order, self.work_order).await?;
        let expected = [
            &[self.work_order][..],
            self.quote,
            self.payment,
            self.execution,
        ];
        // The others may be a moment behind.
        let end = Instant::now() + Duration::from_secs(10);
        let mut statuses = client.statuses(&order).await?;
        while statuses != expected && Instant::now() < end {
            tokio::time::sleep(PAUSE).await;
            statuses = client.statuses(&order).await?;
        }
        let is_right = statuses == expected;
        let saga = client.saga(&order, self.events).await?;
        let mut text = timeline::table(&saga);
        for (what, statuses) in ["work order", "quote", "payment", "execution"]
            .iter()
            .zip(&statuses)
        {
            if !statuses.is_empty() {
                let _ = write!(text, "\n{what:<11}{}", statuses.join(", "));
            }
        }
        if !is_right {
            let _ = write!(text, "\nWRONG: expected {expected:?}");
        }
        text.push('\n');
        Ok((text, is_right))
    }

    async fn act(&self, client: &Client, order: &Id) -> anyhow::Result<()> {
        let quote = client.quote(order).await?;
        if let Kind::QuoteRejected = self.kind {
            return client.answer(&quote, "reject").await;
        }
        client.answer(&quote, "approve").await?;
        client.execution(order, |_| true).await?;
        if let Kind::CancelledBefore = self.kind {
            return client.cancel(order).await;
        }
        let status = client.pay(order, &quote, self.amount).await?;
        if let Kind::PaymentRejected = self.kind {
            anyhow::ensure!(status == 400, "a rejected payment is a 400, not {status}");
            return Ok(());
        }
        anyhow::ensure!([200, 201].contains(&status), "the payment: {status}");
        let execution = client.workable(order).await?;
        if let Kind::CancelledAfter = self.kind {
            return client.cancel(order).await;
        }
        client
            .work(&execution, "start-diagnosis", Value::Null)
            .await?;
        let found = json!({ "notes": "the water pump" });
        client.work(&execution, "complete-diagnosis", found).await?;
        client.work(&execution, "start-repair", Value::Null).await?;
        if let Kind::RepairFails = self.kind {
            let reason = json!({ "reason": "there are no pumps for this model any more" });
            return client.work(&execution, "fail", reason).await;
        }
        let done = json!({
            "notes": "a new pump",
            "partsUsed": [{ "partId": "pump", "name": "Water pump", "quantity": 1 }],
        });
        client.work(&execution, "complete-repair", done).await?;
        client
            .work(&execution, "start-testing", Value::Null)
            .await?;
        client.work(&execution, "complete", Value::Null).await
    }
}

impl Stack {
    /// All three in this process with a simulated gateway, on an embedded broker and SQLite in a directory, with a secret that nobody knows. At
    /// their own ports, or at any.
    async fn local(
        own_ports: bool,
        data: &Path,
        stopped: &watch::Receiver<bool>,
    ) -> anyhow::Result<(Stack, Settings)> {
        let servers = crate::settings::ServerArgs::default();
        stack::data(&data.to_owned())?;
        let mut places = Vec::new();
        for role in Role::ALL {
            let port = if own_ports { role.port() } else { 0 };
            places.push(Place {
                role,
                listener: bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?,
                store: stack::store(role, data, &servers),
            });
        }
        let mut settings = Settings::local();
        settings.gateway = gateway::simulate(&mut settings, &places, stopped.clone()).await?;
        let stack = Stack::start(places, &stack::broker(data, &servers), &settings).await?;
        Ok((stack, settings))
    }
}
