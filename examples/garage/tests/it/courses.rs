//! Courses of work orders, driven from outside by whoever looks at them again and again: services may be away, or answer late, or end meanwhile. And
//! what must be so when they have ended.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// The queue of the billing service whose dead letters name payments that the gateway did not settle.
pub(crate) const GATEWAY_QUEUE: &str = "billing-gateway";

/// Between two looks.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// The services and the gateway, however they are reached.
pub(crate) trait Apis: Clone + Send + Sync + 'static {
    /// How long anything may take.
    const PATIENCE: Duration;

    /// Asks as an administrator, perhaps with an idempotency key. None: there was no answer.
    fn ask(
        &self,
        role: &str,
        method: &str,
        path: &str,
        body: &Value,
        key: Option<&str>,
    ) -> impl Future<Output = Option<(u16, Value)>> + Send;
}

/// What is at a path, as soon as the service answers.
async fn get<A: Apis>(api: &A, role: &str, path: &str) -> Value {
    let mut told = Value::Null;
    until::<A>(&format!("{role} answers {path}"), async || {
        match api.ask(role, "GET", path, &Value::Null, None).await {
            Some((status, body)) if status < 500 => {
                told = body;
                true
            }
            _ => false,
        }
    })
    .await;
    told
}

/// Looks again until it is so.
async fn until<A: Apis>(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + A::PATIENCE;
    while !look().await {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(PAUSE).await;
    }
}

/// What the people want of a work order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Plan {
    /// That it is done.
    Happy,
    /// The customer does not agree.
    RejectQuote,
    /// Cancelled at once.
    CancelAtOnce,
    /// Cancelled when it is approved.
    CancelApproved,
    /// Cancelled when it is paid.
    CancelPaid,
    /// Cancelled when its payment is rejected.
    CancelUnpaid,
    /// The vehicle cannot be repaired.
    FailRepair,
}

/// A work order and what is wanted of it.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    plan: Plan,
    amount: &'static str,
    key: String,
    pub(crate) id: Option<String>,
}

/// How many plans there are, each with one of the gateway's whims.
pub(crate) const PLANS: usize = 12;

impl Course {
    /// By the `at`-th plan, over and over: what it asks for has keys that begin so.
    pub(crate) fn new(at: usize, key: &str) -> Course {
        let plans: [_; PLANS] = [
            (Plan::Happy, "150.00"),
            (Plan::CancelPaid, "150.00"),
            (Plan::Happy, "150.02"),
            (Plan::RejectQuote, "150.00"),
            (Plan::FailRepair, "150.05"),
            (Plan::Happy, "150.04"),
            (Plan::CancelAtOnce, "150.00"),
            (Plan::CancelUnpaid, "150.01"),
            (Plan::CancelApproved, "150.00"),
            (Plan::FailRepair, "150.00"),
            (Plan::CancelUnpaid, "150.03"),
            (Plan::CancelPaid, "150.06"),
        ];
        let (plan, amount) = plans[at % PLANS];
        Course {
            plan,
            amount,
            key: key.to_owned(),
            id: None,
        }
    }

    /// Whether the gateway never gives back what was paid.
    fn keeps_money(&self) -> bool {
        self.amount.ends_with("06")
    }

    /// Whether the billing service gives up to reach the gateway for it.
    pub(crate) fn gives_up(&self) -> bool {
        self.keeps_money() || self.amount.ends_with("03")
    }

    /// How the work order ends.
    pub(crate) fn end(&self) -> &'static str {
        match self.plan {
            Plan::Happy => "COMPLETED",
            _ => "CANCELLED",
        }
    }

    /// Opens the work order, if the OS service takes it now.
    pub(crate) async fn open(&mut self, api: &impl Apis, customer: &Customer) -> bool {
        let body = json!({
            "customerId": customer.id, "vehicleId": customer.vehicle,
            "description": "It squeaks", "estimatedCost": self.amount,
        });
        let asked = api.ask("os", "POST", "/work-orders", &body, Some(&self.key));
        match asked.await {
            Some((201, order)) => {
                self.id = order["id"].as_str().map(str::to_owned);
                true
            }
            Some((status, told)) => {
                assert_eq!(status, 503, "{told}");
                false
            }
            None => false,
        }
    }

    /// Does what is next, if anything is; whether the work order has ended.
    pub(crate) async fn step(&self, api: &impl Apis, customer: &Customer) -> bool {
        let Some(state) = State::look(api, self.id.as_ref().expect("opened")).await else {
            return false;
        };
        if state.order == self.end() {
            return true;
        }
        assert!(
            !["COMPLETED", "CANCELLED"].contains(&&*state.order),
            "{self:?} ended otherwise: {state:?}"
        );
        match self.plan {
            Plan::CancelAtOnce => self.cancel(api).await,
            Plan::CancelApproved if state.is_approved() => self.cancel(api).await,
            Plan::CancelPaid if state.is_paid() => self.cancel(api).await,
            Plan::CancelUnpaid if state.has_payment("REJECTED") => self.cancel(api).await,
            Plan::FailRepair if state.execution_is("REPAIRING") => {
                let reason = json!({ "reason": "the frame is broken" });
                self.work(api, &state, "fail", &reason).await;
            }
            _ => self.go_on(api, customer, &state).await,
        }
        false
    }

    async fn go_on(&self, api: &impl Apis, customer: &Customer, state: &State) {
        if let Some((quote, status)) = state.quotes.first()
            && ["PENDING", "SENT"].contains(&&**status)
        {
            let verb = match self.plan {
                Plan::RejectQuote => "reject",
                _ => "approve",
            };
            let path = format!("/quotes/{quote}/{verb}");
            drop(api.ask("billing", "PATCH", &path, &Value::Null, None).await);
            return;
        }
        if state.is_approved() && state.payments.is_empty() {
            let body = json!({
                "quoteId": state.quotes[0].0, "workOrderId": self.id, "customerId": customer.id,
                "amount": self.amount, "paymentMethod": "PIX", "process": true,
            });
            let key = format!("{}-payment", self.key);
            let asked = api.ask("billing", "POST", "/payments", &body, Some(&key));
            if let Some((status, told)) = asked.await {
                let known = [200, 201, 202, 400, 409, 503].contains(&status);
                assert!(known, "{status} {told}");
            }
            return;
        }
        let verb = match state.execution.as_ref().map(|(_, status)| &**status) {
            Some("QUEUED") if state.is_paid() => "start-diagnosis",
            Some("DIAGNOSING") => "complete-diagnosis",
            Some("DIAGNOSIS_COMPLETE") => "start-repair",
            Some("REPAIRING") => "complete-repair",
            Some("REPAIR_COMPLETE") => "start-testing",
            Some("TESTING") => "complete",
            _ => return,
        };
        self.work(api, state, verb, &Value::Null).await;
    }

    async fn cancel(&self, api: &impl Apis) {
        let path = format!("/work-orders/{}", self.id.as_ref().expect("opened"));
        if let Some((status, told)) = api.ask("os", "DELETE", &path, &Value::Null, None).await {
            assert!([200, 503].contains(&status), "{status} {told}");
        }
    }

    async fn work(&self, api: &impl Apis, state: &State, verb: &str, body: &Value) {
        let Some((id, _)) = &state.execution else {
            return;
        };
        let path = format!("/executions/{id}/{verb}");
        if let Some((status, told)) = api.ask("execution", "POST", &path, body, None).await {
            assert!([201, 409, 503].contains(&status), "{status} {told}");
        }
    }

    /// Drives it to its end, with such pauses between two looks.
    pub(crate) async fn drive<A: Apis>(
        &mut self,
        api: &A,
        customer: &Customer,
        mut pause: impl FnMut() -> Duration,
    ) {
        let end = Instant::now() + A::PATIENCE;
        while self.id.is_none() && !self.open(api, customer).await {
            assert!(Instant::now() < end, "{self:?} is not opened in time");
            sleep(pause()).await;
        }
        while !self.step(api, customer).await {
            if Instant::now() >= end {
                let id = self.id.as_ref().expect("opened");
                let state = State::look(api, id).await;
                let path = format!("/sagas/{id}");
                let saga = api.ask("os", "GET", &path, &Value::Null, None).await;
                panic!("{self:?} does not end in time: {state:?}; {saga:?}");
            }
            sleep(pause()).await;
        }
    }
}

/// A customer with a vehicle.
#[derive(Clone, Debug)]
pub(crate) struct Customer {
    pub(crate) id: i64,
    pub(crate) vehicle: i64,
}

impl Customer {
    pub(crate) async fn new(api: &impl Apis) -> Customer {
        let body = json!({
            "name": "Ada", "personType": "INDIVIDUAL", "document": "123.456.789-09", "phone": "+55 11 5555 0100",
        });
        let id = made(api, "/customers", &body).await;
        let body = json!({
            "plate": "ABC1D23", "brand": "Brown", "model": "Hare", "year": 2020, "customerId": id,
        });
        let vehicle = made(api, "/vehicles", &body).await;
        Customer { id, vehicle }
    }
}

async fn made<A: Apis>(api: &A, path: &str, body: &Value) -> i64 {
    let mut id = None;
    until::<A>(&format!("POST {path}"), async || {
        let asked = api.ask("os", "POST", path, body, Some(path)).await;
        id = asked.and_then(|(_, told)| told["id"].as_i64());
        id.is_some()
    })
    .await;
    id.expect("made")
}

/// Where a work order stands, in all three services.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) order: String,
    /// Ids and statuses.
    quotes: Vec<(String, String)>,
    payments: Vec<(String, String)>,
    execution: Option<(String, String)>,
    executions: usize,
}

impl State {
    /// None: not all of them answer.
    pub(crate) async fn look(api: &impl Apis, id: &str) -> Option<State> {
        let get = async |role, path: String| {
            let (status, told) = api.ask(role, "GET", &path, &Value::Null, None).await?;
            (status == 200).then_some(told)
        };
        let order = get("os", format!("/work-orders/{id}")).await?;
        let quotes = get("billing", format!("/quotes/work-order/{id}")).await?;
        let payments = get("billing", format!("/payments/work-order/{id}")).await?;
        let executions = get("execution", format!("/executions/work-order/{id}")).await?;
        let pairs = |list: &Value| {
            let word = |one: &Value, name: &str| one[name].as_str().unwrap_or_default().to_owned();
            let list = list.as_array().map_or(&[][..], Vec::as_slice);
            let pairs = list
                .iter()
                .map(|one| (word(one, "id"), word(one, "status")));
            pairs.collect::<Vec<_>>()
        };
        let executions = pairs(&executions);
        Some(State {
            order: order["status"].as_str()?.to_owned(),
            quotes: pairs(&quotes),
            payments: pairs(&payments),
            executions: executions.len(),
            execution: executions.into_iter().next(),
        })
    }

    fn is_approved(&self) -> bool {
        self.quotes.iter().any(|(_, status)| status == "APPROVED")
    }

    fn has_payment(&self, wanted: &str) -> bool {
        self.payments.iter().any(|(_, status)| status == wanted)
    }

    fn is_paid(&self) -> bool {
        self.has_payment("APPROVED")
    }

    fn execution_is(&self, wanted: &str) -> bool {
        let execution = self.execution.as_ref();
        execution.is_some_and(|(_, status)| status == wanted)
    }

    /// Whether all three agree that it is over.
    fn is_settled(&self, keeps_money: bool) -> bool {
        let live = |status: &str| ["PENDING", "SENT", "PROCESSING"].contains(&status);
        if self.quotes.iter().any(|(_, status)| live(status))
            || self.payments.iter().any(|(_, status)| live(status))
            || self.executions > 1
            || self.quotes.len() > 1
        {
            return false;
        }
        match &*self.order {
            "COMPLETED" => self.is_paid() && self.execution_is("COMPLETED"),
            "CANCELLED" => {
                self.is_paid() == keeps_money
                    && (self.executions == 0 || self.execution_is("FAILED"))
            }
            _ => false,
        }
    }
}

/// When all have ended and it is quiet: COMPLETED is paid and executed; of what is CANCELLED no money is kept and nothing is worked on; every saga has
/// ended; the gateway's books agree.
pub(crate) async fn audit<A: Apis>(api: &A, courses: &[Course]) {
    let (mut paid, mut refunded) = (0, 0);
    for course in courses {
        let id = course.id.as_ref().expect("opened");
        let mut last = None;
        let end = Instant::now() + A::PATIENCE;
        loop {
            last = State::look(api, id).await.or(last);
            let state = last.as_ref();
            if state.is_some_and(|state| state.is_settled(course.keeps_money())) {
                break;
            }
            assert!(Instant::now() < end, "{course:?} is not settled: {last:?}");
            sleep(PAUSE).await;
        }
        let state = last.expect("settled");
        assert_eq!(state.order, course.end(), "{course:?}");
        let count = |wanted| {
            let payments = state.payments.iter();
            payments.filter(|(_, status)| status == wanted).count()
        };
        paid += count("APPROVED");
        refunded += count("REFUNDED");
        let wanted = if course.keeps_money() {
            "stuck"
        } else {
            "ended"
        };
        let mut saga = Value::Null;
        until::<A>(&format!("the saga of {course:?} is {wanted}"), async || {
            saga = get(api, "os", &format!("/sagas/{id}")).await;
            saga["state"] == wanted
        })
        .await;
        if course.keeps_money() {
            let reason = saga["reason"].as_str().unwrap_or_default();
            assert!(reason.contains("payment.refund-failed"), "{saga}");
        }
    }
    let books = get(api, "gateway", "/charges").await;
    assert_eq!(books["charged_twice"], json!([]), "{books}");
    assert_eq!(books["refunded_twice"], json!([]), "{books}");
    let charges = books["charges"].as_array().expect("charges");
    let charges = charges.iter();
    let taken = charges
        .filter(|charge| charge["status"] != "rejected")
        .count();
    let given_back = books["refunds"].as_array().expect("refunds").len();
    assert_eq!((taken, given_back), (paid + refunded, refunded), "{books}");
}
