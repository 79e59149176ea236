//! Each service ends as by `kill -9` at each boundary, again and again, under load; and all of them end at any time, with copies of every event. Then
//! it is quiet, and what must be so is so.
//!
//! `LEVERET_TEST_CRASH_ROUNDS` says how often at each boundary; 3.

use leveret::crash::Point;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    courses::{Course, Customer, PAUSE, audit},
    rig::{Garage, PATIENCE, Place, ROLES},
};

/// Where a service can end.
const OF_ALL: [Point; 5] = [
    Point::ServiceAfterCommit,
    Point::RelayBeforePublish,
    Point::RelayAfterPublish,
    Point::ServiceBeforeCommit,
    Point::BrokerBeforeAck,
];

/// Where the billing service can end besides.
const OF_EFFECTS: [Point; 2] = [Point::EffectBeforeCall, Point::EffectAfterCall];

/// Work orders that are under way at once for each crash.
const COURSES: usize = 5;

fn rounds() -> u32 {
    let given = std::env::var("LEVERET_TEST_CRASH_ROUNDS");
    given.map_or(3, |rounds| rounds.parse().expect("a count"))
}

/// Runs the service until it ends there, while work orders go their ways; then lets it take up what it left.
async fn crash(
    garage: &mut Garage,
    customer: &Customer,
    courses: &mut Vec<Course>,
    role: &'static str,
    at: &str,
) {
    garage.stop(role);
    garage.begin(role, Some(at));
    let end = Instant::now() + PATIENCE;
    let mut under_way: Vec<Course> = Vec::new();
    while !garage.is_killed(role) {
        assert!(Instant::now() < end, "{role} does not come to {at}");
        while under_way.len() < COURSES {
            under_way.push({
                let at = courses.len() + under_way.len();
                Course::new(at, &format!("course-{at}"))
            });
        }
        let mut ended = Vec::new();
        for (place, course) in under_way.iter_mut().enumerate() {
            if course.id.is_none() && !course.open(&garage.api, customer).await {
                continue;
            }
            if course.step(&garage.api, customer).await {
                ended.push(place);
            }
        }
        // Those that have ended make room for others, which lead to the crash.
        if ended.len() == under_way.len() {
            courses.append(&mut under_way);
        }
        sleep(PAUSE / 5).await;
    }
    garage.begin(role, None);
    let mut driving = JoinSet::new();
    for mut course in under_way {
        let (api, customer) = (garage.api.clone(), customer.clone());
        driving.spawn(async move {
            course.drive(&api, &customer, || PAUSE).await;
            course
        });
    }
    courses.extend(driving.join_all().await);
    garage.takes_up(role).await;
}

async fn crash_at_each(role: &'static str, points: &[Point]) {
    let Some(place) = Place::new(&format!("crashed_{role}")).await else {
        return;
    };
    let mut garage = Garage::start(place).await;
    let customer = Customer::new(&garage.api).await;
    let mut courses = Vec::new();
    for point in points {
        for round in 0..rounds() {
            // Not always the first: then others are beside it.
            let at = format!("{point}:{}", 1 + (round * 2) % 5);
            crash(&mut garage, &customer, &mut courses, role, &at).await;
        }
    }
    audit(&garage.api, &courses).await;
    garage.no_dead_letters(&courses).await;
    println!("{} work orders", courses.len());
    garage.remove().await;
}

#[tokio::test]
async fn the_os_service_crashes_at_each_boundary() {
    crash_at_each("os", &OF_ALL).await;
}

#[tokio::test]
async fn the_billing_service_crashes_at_each_boundary() {
    crash_at_each("billing", &[&OF_ALL[..], &OF_EFFECTS].concat()).await;
}

#[tokio::test]
async fn the_execution_service_crashes_at_each_boundary() {
    crash_at_each("execution", &OF_ALL).await;
}

/// 200 work orders beside each other; in a chaos run so many more. Every event comes more than once, and every service is killed now and then.
#[tokio::test]
async fn many_with_copies_and_kills() {
    let Some(place) = Place::new("many").await else {
        return;
    };
    let count = if rounds() > 3 { 1000 } else { 200 };
    let mut garage = Garage::start(place).await;
    let customer = Customer::new(&garage.api).await;
    let copying = tokio::spawn(crate::saga::multiply(
        crate::rig::Foreign::new(&garage.place.amqp).await,
        "copies-among-many",
    ));
    let mut driving = JoinSet::new();
    for first in 0..20 {
        let (api, customer) = (garage.api.clone(), customer.clone());
        driving.spawn(async move {
            let mut courses: Vec<_> = (first..count)
                .step_by(20)
                .map(|at| Course::new(at, &format!("course-{at}")))
                .collect();
            for course in &mut courses {
                course.drive(&api, &customer, || PAUSE).await;
            }
            courses
        });
    }
    let mut courses = Vec::new();
    let mut kills = 0;
    while let Some(driven) = driving.join_next().await {
        courses.extend(driven.expect("no panic"));
        // Now that some have ended, the others are somewhere on their way.
        let role = ROLES[kills % 3];
        kills += 1;
        garage.kill(role);
        garage.begin(role, None);
    }
    assert_eq!(courses.len(), count);
    audit(&garage.api, &courses).await;
    assert!(!copying.is_finished(), "it goes on until it is told");
    copying.abort();
    garage.no_dead_letters(&courses).await;
    garage.remove().await;
}
