//! Sagas across three processes: as they go when all is well, and when every event comes five times, across queues in any order.

use std::collections::HashSet;

use serde_json::Value;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    courses::{Course, Customer, PAUSE, PLANS, audit},
    rig::{EXCHANGE, Foreign, Garage, Place, ROLES, queues},
};

async fn drive_all(garage: &Garage, count: usize) -> Vec<Course> {
    let customer = Customer::new(&garage.api).await;
    let mut driving = JoinSet::new();
    for at in 0..count {
        let (api, customer) = (garage.api.clone(), customer.clone());
        driving.spawn(async move {
            let mut course = Course::new(at, &format!("course-{at}"));
            course.drive(&api, &customer, || PAUSE).await;
            course
        });
    }
    driving.join_all().await
}

#[tokio::test]
async fn every_course_comes_to_its_end() {
    let Some(place) = Place::new("courses").await else {
        return;
    };
    let garage = Garage::start(place).await;
    let courses = drive_all(&garage, PLANS).await;
    audit(&garage.api, &courses).await;
    garage.no_dead_letters(&courses).await;
    garage.remove().await;
}

/// Takes each event once, and sends it again four times to the exchange and once to each queue that it is for.
pub(crate) async fn multiply(foreign: Foreign, spy: &'static str) {
    let mut seen = HashSet::new();
    foreign.listen(spy).await;
    loop {
        let Some(message) = foreign.try_take(spy).await else {
            sleep(PAUSE / 5).await;
            continue;
        };
        let delivery = message.delivery;
        let event: Value = serde_json::from_slice(&delivery.data).expect("JSON");
        let id = event["eventId"].as_str().expect("an id").to_owned();
        if !seen.insert(id) {
            continue;
        }
        let kind = delivery.routing_key.to_string();
        for _ in 0..4 {
            let properties = delivery.properties.clone();
            foreign
                .publish(EXCHANGE, &kind, &delivery.data, properties)
                .await;
        }
        for role in ROLES {
            let queue = format!("{role}-{}", kind.replace('.', "-"));
            if queues(role).contains(&&*queue) {
                let properties = delivery.properties.clone();
                foreign
                    .publish("", &queue, &delivery.data, properties)
                    .await;
            }
        }
    }
}

#[tokio::test]
async fn what_comes_five_times_takes_effect_once() {
    let Some(place) = Place::new("repeated").await else {
        return;
    };
    let garage = Garage::start(place).await;
    for role in ROLES {
        garage.ready(role).await;
    }
    let foreign = Foreign::new(&garage.place.amqp).await;
    let multiplying = tokio::spawn(multiply(foreign, "copies-of-events"));
    let courses = drive_all(&garage, 2 * PLANS).await;
    audit(&garage.api, &courses).await;
    for role in ROLES {
        garage.takes_up(role).await;
    }
    audit(&garage.api, &courses).await;
    assert!(!multiplying.is_finished(), "it goes on until it is told");
    multiplying.abort();
    garage.no_dead_letters(&courses).await;
    garage.remove().await;
}
