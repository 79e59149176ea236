//! The service as others have it: its API, and what it makes of events, in a world of its own.

mod events;
mod registers;
mod sagas;
mod table;
mod work_orders;

use std::collections::HashSet;

use axum::{
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode},
};
use leveret::{
    core::event,
    service::{
        Now,
        events::{Cause, Emitter, EventData, Party},
        testing::{Parts, TestedService, World},
    },
};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{kinds, service};
use crate::{
    auth::{Keys, Role},
    events::CATALOGUE,
    ids::Id,
    settings::{MercadoPagoArgs, PatienceArgs, Settings, Work, WorkArgs},
    stack,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Until then tokens are good, in seconds.
const FAR: u64 = 4_000_000_000;
/// Where all events of the world are kept.
const ALL: &str = "all";

const ADMIN: (&str, Role) = ("1", Role::Admin);
const STAFF: (&str, Role) = ("2", Role::Staff);

fn settings(now: Now) -> Settings {
    let seconds = std::time::Duration::from_secs;
    let work = WorkArgs {
        retry_delays: vec![seconds(1), seconds(5)],
        concurrency: 8,
    };
    Settings {
        work: Work::new(&work, now),
        keys: Keys::new(SECRET).unwrap(),
        patience: PatienceArgs {
            quote_valid_for: seconds(3 * 3600),
            payment_within: seconds(3600),
            execution_idle: seconds(2 * 3600),
        },
        gateway: String::new(),
        mercado_pago: MercadoPagoArgs {
            access_token: None,
            webhook_secret: None,
            public_url: None,
        },
    }
}

/// The service in a world, with a customer and his vehicle.
struct Rig {
    world: World,
    os: TestedService,
    settings: Settings,
}

impl Rig {
    async fn new(world: &World) -> Rig {
        let make = |parts: Parts| {
            let settings = settings(parts.now.clone());
            service(parts.documents, parts.broker, &settings).unwrap()
        };
        let os = world.service("os", &kinds(), make).await;
        world.listen(ALL, CATALOGUE.exchange, "#").await;
        let rig = Rig {
            world: world.clone(),
            os,
            settings: settings(world.clock()),
        };
        rig.add_customer("111.222.333-44").await;
        rig.add_vehicle("ABC-1234", 1).await;
        rig
    }

    async fn add_customer(&self, document: &str) -> Value {
        let body = json!({
            "name": "Ada", "personType": "INDIVIDUAL", "document": document, "email": "ada@example.com", "phone": "1",
        });
        let (status, customer) = self.ask(STAFF, "POST", "/customers", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{customer}");
        customer
    }

    async fn add_vehicle(&self, plate: &str, customer_id: i64) -> Value {
        let body = json!({
            "plate": plate, "brand": "Fiat", "model": "Uno", "year": 1995, "customerId": customer_id,
        });
        let (status, vehicle) = self.ask(STAFF, "POST", "/vehicles", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{vehicle}");
        vehicle
    }

    /// A work order of that customer.
    async fn opened(&self) -> Id {
        let body = json!({
            "customerId": 1, "vehicleId": 1, "description": "It rattles", "estimatedCost": "150.00",
        });
        let (status, order) = self.ask(STAFF, "POST", "/work-orders", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{order}");
        Id::parse(order["id"].as_str().unwrap()).unwrap()
    }

    async fn respond(&self, request: Request<Body>) -> Response<Body> {
        let service = self.os.service();
        let broker = self.world.broker();
        let router = stack::router(stack::Role::Os, &service, &broker, &self.settings);
        router.oneshot(request).await.unwrap()
    }

    fn request(who: (&str, Role), method: &str, path: &str, body: &Value) -> Request<Body> {
        let token = Keys::new(SECRET).unwrap().token(who.0, who.1, FAR);
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .body(body)
            .unwrap()
    }

    async fn ask(
        &self,
        who: (&str, Role),
        method: &str,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        let request = Rig::request(who, method, path, body);
        read(self.respond(request).await).await
    }

    /// The same with a key.
    async fn ask_keyed(&self, key: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let mut request = Rig::request(STAFF, "POST", path, body);
        let headers = request.headers_mut();
        headers.insert("idempotency-key", key.parse().unwrap());
        read(self.respond(request).await).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(STAFF, "GET", path, &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    async fn refused(&self, method: &str, path: &str, body: &Value, expected: (u16, &str)) {
        let (status, answer) = self.ask(ADMIN, method, path, body).await;
        assert_eq!(status, expected.0, "{method} {path} {body}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(expected.1), "{method} {path}: {message}");
        assert_eq!(answer["statusCode"], expected.0);
        assert!(answer["error"].is_string());
    }

    async fn status(&self, id: &Id) -> String {
        let order = self.get(&format!("/work-orders/{id}")).await;
        order["status"].as_str().unwrap().to_owned()
    }

    /// Publishes an event of another service.
    async fn publish(&self, party: Party, data: &impl EventData, version: u64, id: &Id) {
        self.publish_because(party, data, version, Cause::root(id.as_str()))
            .await;
    }

    async fn publish_because(
        &self,
        party: Party,
        data: &impl EventData,
        version: u64,
        cause: Cause,
    ) {
        let emitter = Emitter::new(&CATALOGUE, party, cause, self.world.now());
        let publish = emitter.event(data, version);
        self.world.publish(publish.publication).await;
    }

    /// What the service has told since the last look: types of its events, with the new status if there is one. An event that a crash has
    /// brought again is the same one.
    async fn told(&self) -> Vec<String> {
        self.world.settle().await;
        let messages = self.world.take(ALL).await;
        let events = messages.iter().map(|message| event::decode(&message.body));
        let events = events.map(Result::unwrap);
        let mut known = HashSet::new();
        let own = events
            .filter(|event| &*event.source == "os-service" && known.insert(event.event_id.clone()));
        own.map(|event| {
            let data: Value = serde_json::from_str(event.data.text()).unwrap();
            match data["newStatus"].as_str() {
                Some(status) => format!("{} {status}", event.event_type),
                None => event.event_type.to_string(),
            }
        })
        .collect()
    }
}

async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let body = serde_json::from_slice(&bytes);
    (status, body.unwrap_or(Value::Null))
}
