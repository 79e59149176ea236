//! All three services in one world: two work orders beside each other, every delivery twice or more and in any order, crashes at any boundary, all by
//! a seed. When it is over, what must be so is so.

#[path = "../tests/it/courses.rs"]
mod courses;

use std::time::Duration;

use axum::{Router, body::Body, http::Request, middleware::from_fn_with_state};
use leveret::service::testing::{Parts, TestedService, World, world};
use serde_json::Value;
use tower::ServiceExt as _;

use self::courses::{Apis, Course, Customer, audit};
use crate::{
    auth,
    billing::{self, InMemory},
    execution, os,
    settings::Settings,
};

/// Interleavings in all.
const SEEDS: u64 = 500;
/// Tests that share them.
const TESTS: u64 = 5;

/// The services of a world, as whoever asks them sees them.
#[derive(Clone)]
struct Garage {
    os: TestedService,
    billing: TestedService,
    execution: TestedService,
    gateway: InMemory,
    settings: Settings,
    token: String,
}

impl Garage {
    async fn new(world: &World) -> Garage {
        let settings = Settings::test(world.clock());
        let gateway = InMemory::new(&settings);
        let make = {
            let settings = settings.clone();
            move |parts: Parts| {
                let service = os::service(parts.documents, parts.broker, &settings);
                service.expect("the catalogue agrees")
            }
        };
        let os = world.service("os", &os::kinds(), make).await;
        let make = {
            let (settings, gateway) = (settings.clone(), gateway.clone());
            move |parts: Parts| billing::in_memory_service(parts, &settings, &gateway)
        };
        let billing = world.service("billing", &billing::kinds(), make).await;
        let make = {
            let settings = settings.clone();
            move |parts: Parts| {
                let service = execution::service(parts.documents, parts.broker, &settings);
                service.expect("the catalogue agrees")
            }
        };
        let execution = world.service("execution", &execution::kinds(), make).await;
        // A token is checked by the machine's clock, which is ahead of the world's.
        let far = 4_000_000_000;
        Garage {
            token: settings.keys.token("1", auth::Role::Admin, far),
            os,
            billing,
            execution,
            gateway,
            settings,
        }
    }

    /// The routes of a service in its present life.
    fn router(&self, role: &str) -> Router {
        let settings = &self.settings;
        let routes = match role {
            "os" => os::router(&self.os.service(), settings),
            "billing" => billing::router(&self.billing.service(), settings),
            _ => execution::router(&self.execution.service(), settings),
        };
        routes.route_layer(from_fn_with_state(settings.keys.clone(), auth::guard))
    }
}

impl Apis for Garage {
    const PATIENCE: Duration = Duration::from_secs(3600);

    async fn ask(
        &self,
        role: &str,
        method: &str,
        path: &str,
        body: &Value,
        key: Option<&str>,
    ) -> Option<(u16, Value)> {
        if role == "gateway" {
            return Some((200, self.gateway.report()));
        }
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        let request = request.body(body).expect("a request");
        let answered = self.router(role).oneshot(request);
        // What is asked of a life that is over is never answered.
        let response = tokio::time::timeout(Duration::from_secs(20), answered).await;
        let response = response.ok()?.expect("routes do not fail");
        let status = response.status().as_u16();
        let read = axum::body::to_bytes(response.into_body(), 1 << 22);
        let bytes = read.await.expect("a body");
        Some((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }
}

fn interleave(seed: u64) {
    world(seed, async |world| {
        let garage = Garage::new(&world).await;
        let customer = Customer::new(&garage).await;
        world.copies(2 + u32::try_from(seed % 3).expect("small"));
        world.shuffled();
        world.crashing(80, 4);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut driving = Vec::new();
        for which in 0..2 {
            let plan = random.usize(..courses::PLANS);
            let mut course = Course::new(plan, &format!("{seed}-{which}"));
            let (garage, customer) = (garage.clone(), customer.clone());
            let mut random = random.fork();
            driving.push(tokio::spawn(async move {
                let pause = move || Duration::from_millis(random.u64(1..700));
                course.drive(&garage, &customer, pause).await;
                course
            }));
        }
        let mut courses = Vec::new();
        for driven in driving {
            courses.push(driven.await.expect("no panic"));
        }
        world.calm();
        world.finish().await;
        audit(&garage, &courses).await;
        for queue in [os::queues(), billing::queues(), execution::queues()].concat() {
            let letters = world.dead_letters(&queue).await;
            let known = queue == courses::GATEWAY_QUEUE && courses.iter().any(Course::gives_up);
            assert!(letters.is_empty() || known, "{queue}: {letters:?}");
        }
    });
}

fn interleave_all(test: u64) {
    let per_test = SEEDS / TESTS;
    for seed in test * per_test..(test + 1) * per_test {
        interleave(seed);
    }
}

#[test]
fn first_hundred() {
    interleave_all(0);
}

#[test]
fn second_hundred() {
    interleave_all(1);
}

#[test]
fn third_hundred() {
    interleave_all(2);
}

#[test]
fn fourth_hundred() {
    interleave_all(3);
}

#[test]
fn fifth_hundred() {
    interleave_all(4);
}
