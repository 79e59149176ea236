//! Over the in-memory broker, on a clock that jumps.

use std::time::Duration;

use super::*;
use crate::broker::{Message, Publication, Queue, memory::MemoryBroker};

fn topology() -> Topology {
    Topology {
        queues: vec![Queue::plain("q")],
        ..Topology::default()
    }
}

/// A pump over a queue with messages `0`, `1`, …
async fn pump(count: usize, places: usize) -> (Arc<dyn Broker>, Pump<String>) {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    broker.declare(&topology()).await.unwrap();
    publish(&*broker, count).await;
    let places = Arc::new(Semaphore::new(places));
    let mut pump = Pump::start(&*broker, ConsumeOptions::queue("q"), places)
        .await
        .unwrap();
    assert!(matches!(
        pump.next().await,
        Event::State(ConsumerState::Live)
    ));
    (broker, pump)
}

async fn publish(broker: &dyn Broker, count: usize) {
    let message = |at: usize| Publication::to_queue("q", Message::json(at.to_string()));
    for result in broker.publish((0..count).map(message).collect()).await {
        result.unwrap();
    }
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.message.body).into_owned()
}

async fn arrived(pump: &mut Pump<String>) -> (Delivery, Place) {
    match pump.next().await {
        Event::Arrived(delivery, place) => (delivery, place),
        other => panic!("{other:?}"),
    }
}

/// Whether nothing happens for a minute.
async fn rests(pump: &mut Pump<String>) -> bool {
    let next = tokio::time::timeout(Duration::from_secs(60), pump.next());
    next.await.is_err()
}

#[tokio::test(start_paused = true)]
async fn places_are_a_bound_and_can_be_given_up() {
    let (_broker, mut pump) = pump(3, 1).await;
    let (first, place) = arrived(&mut pump).await;
    assert!(pump.is_full());
    assert!(rests(&mut pump).await);
    place.give_up();
    let (second, place) = arrived(&mut pump).await;
    assert_eq!((body(&first), body(&second)), ("0".into(), "1".into()));
    assert!(rests(&mut pump).await);
    drop(place);
    let (third, _place) = arrived(&mut pump).await;
    assert_eq!(body(&third), "2");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_what_has_arrived() {
    let (_broker, mut pump) = pump(5, 1).await;
    let (first, place) = arrived(&mut pump).await;
    let mut batch = vec![body(&first)];
    first.receipt.ack();
    while let Some(more) = pump.take_more() {
        batch.push(body(&more));
        more.receipt.ack();
    }
    pump.spawn(async move {
        drop(place);
        batch.concat()
    });
    match pump.next().await {
        Event::Ended(Ok(batch)) => assert_eq!(batch, "01234"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_comes_first_after_the_pause_and_is_no_redelivery() {
    let (broker, mut pump) = pump(2, 2).await;
    let (first, place) = arrived(&mut pump).await;
    drop(place);
    pump.hold(first);
    let until = Instant::now() + Duration::from_secs(5);
    pump.pause_until(until);
    assert!(pump.try_place().is_none());
    assert!(matches!(pump.next().await, Event::Resumed));
    assert!(Instant::now() >= until);
    let (again, _place) = arrived(&mut pump).await;
    assert_eq!((body(&again), again.redelivered), ("0".to_owned(), false));
    again.receipt.ack();
    // The end returns what has no place, and nothing else.
    pump.stop();
    assert_eq!(pump.finish(Instant::now(), |_| {}).await, 0);
    assert_eq!(broker.queue_stats("q").await.unwrap().ready, 1);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_was_deleted_is_declared_again() {
    let (broker, mut pump) = pump(0, 1).await;
    pump.mend(broker.clone(), topology());
    broker.delete_queue("q").await.unwrap();
    assert!(matches!(
        pump.next().await,
        Event::State(ConsumerState::Lost)
    ));
    assert!(matches!(
        pump.next().await,
        Event::State(ConsumerState::Live)
    ));
    publish(&*broker, 1).await;
    let (delivery, _place) = arrived(&mut pump).await;
    delivery.receipt.ack();
}

#[tokio::test(start_paused = true)]
async fn jobs_that_do_not_finish_in_time_give_their_deliveries_back() {
    let (broker, mut pump) = pump(1, 1).await;
    let (delivery, place) = arrived(&mut pump).await;
    pump.spawn(async move {
        std::future::pending::<()>().await;
        drop(place);
        body(&delivery)
    });
    pump.stop();
    let deadline = Instant::now() + Duration::from_secs(1);
    assert_eq!(pump.finish(deadline, |_| {}).await, 1);
    pump.abort().await;
    assert_eq!(broker.queue_stats("q").await.unwrap().ready, 1);
}

#[tokio::test(start_paused = true)]
async fn a_closed_broker_is_an_event() {
    let (broker, mut pump) = pump(0, 1).await;
    broker.close().await;
    loop {
        match pump.next().await {
            Event::State(ConsumerState::Draining) => {}
            Event::Closed => return,
            other => panic!("{other:?}"),
        }
    }
}
