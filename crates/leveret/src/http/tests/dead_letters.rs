//! Dead letters over a broker alone, as a process without an engine serves them.

use super::*;
use crate::broker::{
    Broker, Header, Message, Publication, Queue, Topology,
    memory::MemoryBroker,
    work::{HEADER_QUEUE, HEADER_REASON},
};

async fn answer(router: &Router, method: &str, uri: &str) -> Answer {
    let request = Request::builder().method(method).uri(uri);
    let request = request.body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// A broker with one letter in each of these queues' dead letters.
async fn broker(queues: &[&str]) -> Arc<dyn Broker> {
    let broker = MemoryBroker::new();
    for queue in queues {
        let dlq = format!("{queue}.dlq");
        let topology = Topology {
            queues: vec![Queue::plain(*queue), Queue::plain(dlq.as_str())],
            ..Topology::default()
        };
        broker.declare(&topology).await.unwrap();
        let mut letter = Message::json(r#"{"amount":1.10}"#);
        letter.message_id = Some("m1".into());
        letter.headers = [(HEADER_REASON, "no money"), (HEADER_QUEUE, *queue)]
            .map(|(name, text)| (name.to_owned(), Header::Text(text.to_owned())))
            .into();
        let batch = vec![Publication::to_queue(dlq.as_str(), letter)];
        broker.publish(batch).await.remove(0).unwrap();
    }
    Arc::new(broker)
}

/// What is served is listed, shown, replayed and discarded; the queues of others are not there.
#[tokio::test]
async fn a_process_serves_the_letters_of_its_own_queues() {
    let broker = broker(&["own.a", "own.b", "single", "foreign"]).await;
    let queues = DeadLetterQueues {
        names: vec!["single".into()],
        prefix: Some("own.".to_owned()),
    };
    let router = dead_letters(broker.clone(), queues);
    let listed = answer(&router, "GET", "/api/v1/dlq").await.expect(200);
    let names: Vec<_> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["queue"])
        .collect();
    assert_eq!(names, ["own.a", "own.b", "single"]);
    assert_eq!(
        listed["items"][0]["reasons"],
        json!([{ "reason": "no money", "count": 1 }])
    );

    let shown = answer(&router, "GET", "/api/v1/dlq/own.a.dlq?full=true").await;
    assert!(
        shown.text.contains(r#""json":{"amount":1.10}"#),
        "{}",
        shown.text
    );
    let brief = answer(&router, "GET", "/api/v1/dlq/own.a?reason=other")
        .await
        .expect(200);
    assert_eq!((&brief["count"], &brief["items"]), (&json!(1), &json!([])));

    let dry = answer(&router, "POST", "/api/v1/dlq/own.a/replay?dry_run=true")
        .await
        .expect(200);
    assert_eq!((&dry["done"], &dry["dry_run"]), (&json!(1), &json!(true)));
    let replayed = answer(&router, "POST", "/api/v1/dlq/own.a/replay")
        .await
        .expect(200);
    assert_eq!(replayed["done"], 1);
    assert_eq!(broker.queue_stats("own.a").await.unwrap().ready, 1);
    let discarded = answer(&router, "POST", "/api/v1/dlq/single/discard?message_id=m1").await;
    assert_eq!(discarded.expect(200)["done"], 1);

    for (method, uri, status) in [
        ("GET", "/api/v1/dlq/foreign", 404),
        ("POST", "/api/v1/dlq/foreign.dlq/discard", 404),
        ("GET", "/api/v1/dlq/own.none", 404),
        ("GET", "/api/v1/dlq/own.a?limit=0", 400),
        ("POST", "/api/v1/dlq/own.a/replay?limit=0", 400),
        ("POST", "/api/v1/dlq/own.a/replay?mistake=1", 400),
    ] {
        answer(&router, method, uri).await.expect(status);
    }
    assert_eq!(broker.queue_stats("foreign.dlq").await.unwrap().ready, 1);
}
