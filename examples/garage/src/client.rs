//! A client of the three APIs, for the demo and the bench: what staff, customers and technicians do.

use std::time::Duration;

use anyhow::Context;
use leveret::service::{Key, Service};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{auth, ids::Id, settings::Settings, stack::Role};

/// How often something that is waited for is looked at without a hint.
const POLL: Duration = Duration::from_millis(100);

/// The three APIs, as services of this process.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    services: Vec<(Role, String, Service)>,
    /// An administrator's.
    pub(crate) token: String,
    customer_token: String,
    customer_id: i64,
    vehicle_id: i64,
}

impl Client {
    /// A customer with a vehicle comes to the garage.
    pub(crate) async fn new(
        services: Vec<(Role, String, Service)>,
        settings: &Settings,
    ) -> anyhow::Result<Client> {
        let now = (settings.work.now)().0.unsigned_abs() / 1000;
        let mut client = Client {
            http: reqwest::Client::builder().no_proxy().build()?,
            services,
            token: settings.keys.token("1", auth::Role::Admin, now),
            customer_token: String::new(),
            customer_id: 0,
            vehicle_id: 0,
        };
        let document = Id::new();
        let customer = json!({
            "name": "Ada", "personType": "INDIVIDUAL", "document": document, "email": "ada@example.com", "phone": "+55 11 5555 0100",
        });
        let customer = client
            .done(Role::Os, "POST", "/customers", customer)
            .await?;
        client.customer_id = customer["id"].as_i64().context("a customer has an id")?;
        let sub = client.customer_id.to_string();
        client.customer_token = settings.keys.token(&sub, auth::Role::Customer, now);
        let plate = document.as_str()[24..].to_ascii_uppercase();
        let vehicle = json!({
            "plate": plate, "brand": "Brown", "model": "Hare", "year": 2020, "customerId": client.customer_id,
        });
        let vehicle = client.done(Role::Os, "POST", "/vehicles", vehicle).await?;
        client.vehicle_id = vehicle["id"].as_i64().context("a vehicle has an id")?;
        Ok(client)
    }

    /// Asks a service; status and body.
    pub(crate) async fn ask(
        &self,
        role: Role,
        token: &str,
        method: &str,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<(u16, Value)> {
        let (_, url, _) = self.of(role);
        let mut request = self
            .http
            .request(method.parse()?, format!("{url}{path}"))
            .bearer_auth(token);
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        let body = serde_json::from_str(&text);
        Ok((status, body.unwrap_or(Value::String(text))))
    }

    /// Asks as an administrator what has to be done.
    async fn done(
        &self,
        role: Role,
        method: &str,
        path: &str,
        body: Value,
    ) -> anyhow::Result<Value> {
        let (status, told) = self.ask(role, &self.token, method, path, &body).await?;
        anyhow::ensure!(
            (200..300).contains(&status),
            "{method} {path} of {}: {status} {told}",
            role.name()
        );
        Ok(told)
    }

    fn of(&self, role: Role) -> &(Role, String, Service) {
        let found = self.services.iter().find(|(known, ..)| *known == role);
        found.expect("all three are there")
    }

    /// Looks at a resource again and again, whenever the document behind it has changed and now and then, until it is as it should be.
    async fn until(
        &self,
        role: Role,
        key: &Key,
        path: &str,
        is: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let (_, _, service) = self.of(role);
        loop {
            let changed = service.changed(key);
            let (_, told) = self
                .ask(role, &self.token, "GET", path, &Value::Null)
                .await?;
            if is(&told) {
                return Ok(told);
            }
            // Only a hint: it may come late, or never.
            drop(timeout(POLL, changed).await);
        }
    }

    /// A work order of this estimate; its id.
    pub(crate) async fn open(&self, estimate: &str) -> anyhow::Result<Id> {
        let body = json!({
            "customerId": self.customer_id, "vehicleId": self.vehicle_id,
            "description": "It squeaks", "estimatedCost": estimate,
        });
        let order = self.done(Role::Os, "POST", "/work-orders", body).await?;
        let id = order["id"].as_str().and_then(Id::parse);
        id.context("a work order has an id")
    }

    /// The quote of a work order, as soon as there is one; its id.
    pub(crate) async fn quote(&self, order: &Id) -> anyhow::Result<String> {
        let path = format!("/quotes/work-order/{order}");
        let key = Key::new("bill", order.as_str());
        let quotes = self
            .until(Role::Billing, &key, &path, |quotes| {
                quotes.get(0).is_some_and(|quote| quote["id"].is_string())
            })
            .await?;
        let id = quotes[0]["id"].as_str();
        Ok(id.context("a quote has an id")?.to_owned())
    }

    /// The customer approves or rejects his quote.
    pub(crate) async fn answer(&self, quote: &str, verb: &str) -> anyhow::Result<()> {
        let path = format!("/quotes/{quote}/{verb}");
        let token = &self.customer_token;
        let asked = self.ask(Role::Billing, token, "PATCH", &path, &Value::Null);
        let (status, told) = asked.await?;
        anyhow::ensure!(status == 200, "{verb}: {status} {told}");
        Ok(())
    }

    /// The customer pays at once; the status of the answer.
    pub(crate) async fn pay(&self, order: &Id, quote: &str, amount: &str) -> anyhow::Result<u16> {
        let body = json!({
            "quoteId": quote, "workOrderId": order, "customerId": self.customer_id,
            "amount": amount, "paymentMethod": "PIX", "process": true,
        });
        let token = &self.customer_token;
        let asked = self.ask(Role::Billing, token, "POST", "/payments", &body);
        Ok(asked.await?.0)
    }

    /// The execution of a work order, as soon as it is as it should be; its id.
    pub(crate) async fn execution(
        &self,
        order: &Id,
        is: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<String> {
        let path = format!("/executions/work-order/{order}");
        let key = crate::execution::key_of_work_order(order);
        let found = self
            .until(Role::Execution, &key, &path, |list| {
                list.get(0).is_some_and(&is)
            })
            .await?;
        let id = found[0]["id"].as_str();
        Ok(id.context("an execution has an id")?.to_owned())
    }

    /// The execution of a work order that is paid; its id.
    pub(crate) async fn workable(&self, order: &Id) -> anyhow::Result<String> {
        self.execution(order, |execution| execution["paid"] == true)
            .await
    }

    /// A technician goes on with an execution.
    pub(crate) async fn work(
        &self,
        execution: &str,
        verb: &str,
        body: Value,
    ) -> anyhow::Result<()> {
        let path = format!("/executions/{execution}/{verb}");
        self.done(Role::Execution, "POST", &path, body).await?;
        Ok(())
    }

    /// Cancels a work order.
    pub(crate) async fn cancel(&self, order: &Id) -> anyhow::Result<()> {
        let path = format!("/work-orders/{order}");
        self.done(Role::Os, "DELETE", &path, Value::Null).await?;
        Ok(())
    }

    /// Waits until a work order has a status.
    pub(crate) async fn ends(&self, order: &Id, status: &str) -> anyhow::Result<()> {
        let path = format!("/work-orders/{order}");
        let key = Key::new("work-order", order.as_str());
        let is = |order: &Value| order["status"] == status;
        self.until(Role::Os, &key, &path, is).await?;
        Ok(())
    }

    /// The course of a work order, as soon as this has happened in it.
    pub(crate) async fn saga(&self, order: &Id, events: &[&str]) -> anyhow::Result<Value> {
        let path = format!("/sagas/{order}");
        let key = Key::new("saga", order.as_str());
        let is = |saga: &Value| {
            let entries = saga["entries"].as_array().map_or(&[][..], Vec::as_slice);
            let has = |event| entries.iter().any(|entry| entry["type"] == event);
            events.iter().copied().all(has)
        };
        self.until(Role::Os, &key, &path, is).await
    }

    /// Statuses of a work order, of its quotes, payments and execution.
    pub(crate) async fn statuses(&self, order: &Id) -> anyhow::Result<[Vec<String>; 4]> {
        let of = async |role, path: String| {
            let (_, told) = self
                .ask(role, &self.token, "GET", &path, &Value::Null)
                .await?;
            let all = match told {
                Value::Array(all) => all,
                one => vec![one],
            };
            let statuses = all.iter().filter_map(|one| one["status"].as_str());
            anyhow::Ok(statuses.map(str::to_owned).collect::<Vec<_>>())
        };
        Ok([
            of(Role::Os, format!("/work-orders/{order}")).await?,
            of(Role::Billing, format!("/quotes/work-order/{order}")).await?,
            of(Role::Billing, format!("/payments/work-order/{order}")).await?,
            of(Role::Execution, format!("/executions/work-order/{order}")).await?,
        ])
    }

    /// What the gateway did.
    pub(crate) async fn books(&self, gateway: &str) -> anyhow::Result<Value> {
        let response = self.http.get(format!("{gateway}/charges")).send().await?;
        Ok(response.json().await?)
    }
}
