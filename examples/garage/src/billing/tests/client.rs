//! The client and the simulated gateway, over HTTP.

use std::net::SocketAddr;

use axum::{Json, Router, extract::State, routing::post};
use leveret::{broker::Broker, broker::memory::MemoryBroker, service::documents};
use tokio::{net::TcpListener, sync::watch};

use super::*;
use crate::{
    billing::{bill::Method, gateway::Gateway},
    gateway,
    settings::system_clock,
    stack::{self, Place, Role},
};

/// As the program does when it starts; an error only says that it is there already.
fn install_cryptography() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

async fn listening(router: Router) -> (String, watch::Sender<bool>) {
    install_cryptography();
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(local).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(leveret::http::serve(listener, router, stopped));
    (url, stop)
}

fn client(url: &str) -> Gateway {
    let mut settings = Settings::test(system_clock());
    settings.gateway = url.to_owned();
    settings.mercado_pago.access_token = Some("a token".to_owned());
    settings.mercado_pago.public_url = Some("http://garage.test/".to_owned());
    Gateway::new(&settings).unwrap()
}

fn intent(action: Action, minor: i64, charge_id: Option<String>) -> Intent {
    Intent {
        action,
        work_order_id: id("order"),
        payment_id: id(&format!("payment-{minor}")),
        quote_id: id("quote"),
        customer_id: 7,
        amount: Money(minor),
        method: Method::Pix,
        key: format!("key-{minor}"),
        charge_id,
    }
}

/// Performs an intent once.
async fn perform(client: &Gateway, intent: &Intent) -> Result<Outcome, String> {
    let message = Message::json(serde_json::to_vec(intent).unwrap());
    match client.perform(&message, 1).await {
        Performed::Outcome(BillMessage::Outcome { outcome, .. }) => Ok(outcome),
        Performed::Retry { reason } => Err(reason),
        other => panic!("{other:?}"),
    }
}

async fn charges(url: &str) -> Value {
    let response = reqwest::get(format!("{url}/charges")).await.unwrap();
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// What each ending of the amount comes to: charged, charged again, looked up, refunded.
#[tokio::test]
async fn by_endings() {
    let (url, _stop) = listening(gateway::router_with(None, Duration::from_secs(3600))).await;
    let client = client(&url);
    for (minor, first, again, looked_up) in [
        (15_000, "charged", "charged", "charged"),
        (15_001, "rejected", "rejected", "rejected"),
        (15_002, "in process", "in process", "in process"),
        (15_003, "failed", "failed", "not charged"),
        (15_004, "failed", "charged", "charged"),
    ] {
        let word = |tried: Result<Outcome, String>| match tried {
            Ok(Outcome::Charged { .. }) => "charged",
            Ok(Outcome::Rejected { .. }) => "rejected",
            Ok(Outcome::InProcess { .. }) => "in process",
            Ok(Outcome::NotCharged) => "not charged",
            Ok(other) => panic!("{other:?}"),
            Err(_) => "failed",
        };
        let charge = intent(Action::Charge, minor, None);
        assert_eq!(word(perform(&client, &charge).await), first, "{minor}");
        assert_eq!(word(perform(&client, &charge).await), again, "{minor}");
        let look_up = intent(Action::LookUp, minor, None);
        let found = perform(&client, &look_up).await;
        assert_eq!(word(found.clone()), looked_up, "{minor}");
        if let Ok(Outcome::Charged { charge_id }) = found {
            let by_id = intent(Action::LookUp, minor, Some(charge_id));
            assert_eq!(
                perform(&client, &by_id).await,
                perform(&client, &charge).await
            );
        }
    }
    // A charge that nobody knows.
    let unknown = intent(Action::LookUp, 15_000, Some("17".to_owned()));
    assert_eq!(perform(&client, &unknown).await, Ok(Outcome::NotCharged));
    let report = charges(&url).await;
    assert_eq!(report["charged_twice"], json!([]));
    assert_eq!(report["charges"].as_array().unwrap().len(), 4, "{report}");
    let first = &report["charges"][0];
    let reference = client
        .reference(first["id"].as_str().unwrap())
        .await
        .unwrap();
    assert_eq!(reference.as_deref(), first["order_id"].as_str());
}

#[tokio::test]
async fn refunds() {
    let (url, _stop) = listening(gateway::router(None)).await;
    let client = client(&url);
    for (minor, tries) in [
        (15_000, vec![true, true]),
        (15_005, vec![false, false, true, true]),
        (15_006, vec![false; 5]),
    ] {
        let charged = perform(&client, &intent(Action::Charge, minor, None)).await;
        let Ok(Outcome::Charged { charge_id }) = charged else {
            panic!("{charged:?}");
        };
        let refund = intent(Action::Refund, minor, Some(charge_id));
        for is_refunded in tries {
            let refunded = perform(&client, &refund).await;
            assert_eq!(
                refunded == Ok(Outcome::Refunded),
                is_refunded,
                "{minor} {refunded:?}"
            );
        }
    }
    let report = charges(&url).await;
    assert_eq!(report["refunds"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(report["refunded_twice"], json!([]));
}

/// What the gateway is told, and what a refusal, a foreign answer and silence mean.
#[tokio::test]
async fn what_is_sent() {
    type Seen = Arc<Mutex<Vec<(HeaderMap, Value)>>>;
    let seen = Seen::default();
    let take = async |State(seen): State<Seen>, headers: HeaderMap, Json(body): Json<Value>| {
        seen.lock().unwrap().push((headers, body.clone()));
        let status = match body["transaction_amount"].as_f64() {
            Some(1.0) => 400,
            Some(2.0) => 429,
            _ => 201,
        };
        let answer = match body["transaction_amount"].as_f64() {
            Some(3.0) => json!({ "id": "text-id", "status": "approved" }),
            _ => json!({ "status": "approved" }),
        };
        (
            axum::http::StatusCode::from_u16(status).unwrap(),
            Json(answer),
        )
    };
    let router = Router::new()
        .route("/base/v1/payments", post(take))
        .with_state(seen.clone());
    let (url, stop) = listening(router).await;
    let client = client(&format!("{url}/base/"));
    let charge = async |minor| perform(&client, &intent(Action::Charge, minor, None)).await;
    assert!(matches!(
        charge(100).await,
        Ok(Outcome::Unknown {
            of: Action::Charge,
            ..
        })
    ));
    assert!(charge(200).await.unwrap_err().contains("429"));
    let charge_id = "text-id".to_owned();
    assert_eq!(charge(300).await, Ok(Outcome::Charged { charge_id }));
    assert!(
        charge(400)
            .await
            .unwrap_err()
            .contains("not what is expected")
    );
    {
        let seen = seen.lock().unwrap();
        let (headers, body) = &seen[2];
        assert_eq!(headers["authorization"], "Bearer a token");
        assert_eq!(headers["x-idempotency-key"], "key-300");
        assert_eq!(body["external_reference"], json!(id("payment-300")));
        assert_eq!(
            body["notification_url"],
            "http://garage.test/webhooks/mercadopago"
        );
        assert_eq!(body["payment_method_id"], "pix");
    }
    stop.send_replace(true);
    let mut reason = String::new();
    for _ in 0..50 {
        reason = charge(500).await.unwrap_err();
        if reason.contains("cannot be reached") {
            break;
        }
    }
    assert!(reason.contains("cannot be reached"), "{reason}");
    assert!(
        !reason.contains("http://"),
        "it does not say where: {reason}"
    );
    assert!(format!("{client:?}").contains("base") && !format!("{client:?}").contains("a token"));
}

/// All of it: a service with its routes and the simulator of `up`, which agree upon secrets and find each other; the webhook settles what is in process.
#[tokio::test]
async fn with_the_simulator() {
    install_cryptography();
    let mut settings = Settings::test(system_clock());
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let place = Place {
        role: Role::Billing,
        listener: TcpListener::bind(local).await.unwrap(),
        store: String::new(),
    };
    let (_stop, stopped) = watch::channel(false);
    let places = [place];
    settings.gateway = gateway::simulate(&mut settings, &places, stopped.clone())
        .await
        .unwrap();
    let [place] = places;
    let url = settings.mercado_pago.public_url.clone().unwrap();
    let documents = documents::connect("memory:", "billing", &super::super::kinds())
        .await
        .unwrap();
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
    let service = super::super::service(documents, broker.clone(), &settings).unwrap();
    let router = stack::router(Role::Billing, &service, &broker, &settings);
    tokio::spawn(leveret::http::serve(
        place.listener,
        router,
        stopped.clone(),
    ));
    tokio::spawn({
        let service = service.clone();
        async move { service.run(stopped).await }
    });
    let data = WorkOrderCreated {
        work_order_id: id("order"),
        customer_id: 7,
        vehicle_id: 1,
        description: "it squeaks".into(),
        estimated_cost: Some(Money(15_002)),
    };
    let cause = Cause::root(id("order").as_str());
    let emitter = Emitter::new(&CATALOGUE, crate::events::OS, cause, service.now());
    let told = emitter.event(&data, 1).publication;
    tokio::time::timeout(Duration::from_secs(10), async {
        while !service.not_ready().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it is ready");
    for published in broker.publish(vec![told]).await {
        published.unwrap();
    }
    let now = crate::settings::system_time().0.unsigned_abs() / 1000;
    let token = settings.keys.token("7", Who::Customer, now);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |method: reqwest::Method, path: &str, body: Value| {
        let request = client
            .request(method, format!("{url}{path}"))
            .bearer_auth(&token)
            .json(&body);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        (status, body)
    };
    let quote = Id::derived(&["quote", id("order").as_str()]);
    let mut agreed = (0, Value::Null);
    for _ in 0..500 {
        agreed = ask(
            reqwest::Method::PUT,
            &format!("/billing/quotes/{quote}/approve"),
            json!({}),
        )
        .await;
        if agreed.0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(agreed.1["status"], "APPROVED", "{agreed:?}");
    let payment = json!({
        "quoteId": quote, "workOrderId": id("order"), "customerId": 7, "amount": "150.02", "paymentMethod": "PIX", "process": true,
    });
    let begun = std::time::Instant::now();
    let (status, paid) = ask(reqwest::Method::POST, "/payments", payment).await;
    assert_eq!(
        (status, &paid["status"]),
        (201, &json!("APPROVED")),
        "{paid}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "by the webhook, not by looking"
    );
    let forged = client
        .post(format!("{url}/webhooks/mercadopago"))
        .json(&json!({ "data": { "id": paid["mercadoPagoId"] } }));
    assert_eq!(forged.send().await.unwrap().status().as_u16(), 401);
}
