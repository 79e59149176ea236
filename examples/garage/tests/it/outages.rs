//! Services that start before there is a broker or a database; brokers and databases that go away and come back: what was accepted ends, once.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    courses::{Course, Customer, PAUSE, audit},
    rig::{Foreign, Garage, Place, ROLES, given, until},
    servers::Servers,
};

#[tokio::test]
async fn broker_and_database_come_and_go() {
    let Some(broker) = Servers::private("rabbitmq").await else {
        return;
    };
    let Some(database) = Servers::private("postgres").await else {
        return;
    };
    let amqp = broker.exported("LEVERET_TEST_AMQP_URL");
    let postgres = database.exported("LEVERET_TEST_POSTGRES_URL");
    let Some(mongodb) = given("LEVERET_TEST_MONGODB_URL") else {
        return;
    };
    let place = Place::at("outages", amqp, postgres, mongodb).await;
    broker.order("stop", "rabbitmq").await;
    let mut garage = Garage::prepare(place);
    for role in ROLES {
        garage.begin(role, None);
    }
    for role in ROLES {
        let asked = async |path| garage.api.ask(role, "GET", path, &Value::Null).await;
        assert_eq!(asked("/health/live").await.expect("answers").0, 200);
        let (status, health) = asked("/health").await.expect("answers");
        assert_eq!((status, &health["status"]), (503, &json!("degraded")));
        assert_eq!(health["dependencies"]["rabbitmq"], "down", "{health}");
    }
    let customer = Customer::new(&garage.api).await;
    let mut courses: Vec<_> = (0..10)
        .map(|at| Course::new(at, &format!("course-{at}")))
        .collect();
    // What is asked for while the broker is away is accepted.
    for course in &mut courses {
        assert!(course.open(&garage.api, &customer).await);
    }
    broker.order("start", "rabbitmq").await;
    for role in ROLES {
        garage.ready(role).await;
    }
    garage.foreign = Some(Foreign::new(&garage.place.amqp).await);
    let mut driving = JoinSet::new();
    for mut course in courses {
        let (api, customer) = (garage.api.clone(), customer.clone());
        driving.spawn(async move {
            course.drive(&api, &customer, || PAUSE).await;
            course
        });
    }
    broker.order("restart", "rabbitmq").await;
    database.order("stop", "postgres").await;
    until("OS tells that its database is away", async || {
        let asked = garage.api.ask("os", "GET", "/health", &Value::Null).await;
        asked.is_some_and(|(status, health)| {
            status == 503 && health["dependencies"]["database"] == "down"
        })
    })
    .await;
    database.order("start", "postgres").await;
    let courses = driving.join_all().await;
    for role in ROLES {
        garage.ready(role).await;
    }
    audit(&garage.api, &courses).await;
    garage.foreign = Some(Foreign::new(&garage.place.amqp).await);
    garage.no_dead_letters(&courses).await;
    garage.remove().await;
}

/// The bills' database is away when its service starts, goes away in the middle, and is restarted under load.
#[tokio::test]
async fn the_database_of_bills_comes_and_goes() {
    let Some(mongodb) = Servers::private("mongodb").await else {
        return;
    };
    let (Some(amqp), Some(postgres)) = (
        given("LEVERET_TEST_AMQP_URL"),
        given("LEVERET_TEST_POSTGRES_URL"),
    ) else {
        return;
    };
    let url = mongodb.exported("LEVERET_TEST_MONGODB_URL");
    let place = Place::at("bills", amqp, postgres, url).await;
    mongodb.order("stop", "mongodb").await;
    let mut garage = Garage::start(place).await;
    database_is_away(&garage).await;
    let live = garage
        .api
        .ask("billing", "GET", "/health/live", &Value::Null);
    assert_eq!(live.await.expect("answers").0, 200);
    let asked = garage.api.ask("billing", "GET", "/quotes", &Value::Null);
    assert_eq!(asked.await.expect("answers").0, 503);
    let customer = Customer::new(&garage.api).await;
    let mut courses: Vec<_> = (0..20)
        .map(|at| Course::new(at, &format!("course-{at}")))
        .collect();
    for course in &mut courses {
        assert!(course.open(&garage.api, &customer).await);
    }
    mongodb.order("start", "mongodb").await;
    garage.ready("billing").await;
    let mut driving = JoinSet::new();
    for mut course in courses {
        let (api, customer) = (garage.api.clone(), customer.clone());
        driving.spawn(async move {
            course.drive(&api, &customer, || PAUSE).await;
            course
        });
    }
    mongodb.order("restart", "mongodb").await;
    mongodb.order("stop", "mongodb").await;
    database_is_away(&garage).await;
    // Nothing is known of what came of the last requests, neither here nor there.
    garage.kill("billing");
    mongodb.order("start", "mongodb").await;
    garage.begin("billing", None);
    let courses = driving.join_all().await;
    for role in ROLES {
        garage.ready(role).await;
    }
    audit(&garage.api, &courses).await;
    garage.no_dead_letters(&courses).await;
    garage.remove().await;
}

/// Waits until the billing service tells so.
async fn database_is_away(garage: &Garage) {
    until("billing tells that its database is away", async || {
        let asked = garage.api.ask("billing", "GET", "/health", &Value::Null);
        asked.await.is_some_and(|(status, health)| {
            status == 503 && health["dependencies"]["database"] == "down"
        })
    })
    .await;
}
