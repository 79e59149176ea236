//! What becomes of a work order: by requests, which may be refused, and by events, which are facts.
//!
//! - An event that may be legal later waits for the status that it builds on; one that never will be changes nothing.
//! - APPROVED is reached from IN_PROGRESS only when the very payment that brought it there turns out to be none.
//! - COMPLETED, DELIVERED and CANCELLED absorb all events.

use leveret::{
    core::{event::Event, machine::Arrival, time::Timestamp},
    service::{
        Change, Decider, Decision, Key, Publish, Refusal, View,
        events::{Cause, Emitter, EventData},
    },
};

use super::{
    key,
    order::{Stored, WorkOrder, is_newest},
    requests::{Changes, Opening},
};
use crate::{
    events::{
        CATALOGUE, ExecutionCompleted, ExecutionFailed, ExecutionStatusChanged, OS,
        PaymentApproved, QuoteApproved, QuoteRejected, WorkOrderApproved, WorkOrderCancelled,
        WorkOrderCreated, WorkOrderStatusChanged,
    },
    failure::{CONFLICT, INVALID, NOT_FOUND},
    ids::Id,
    os::registers::{self, StoredCustomer, StoredVehicle},
    request::{Keyed, Seen, Served},
    statuses::{ExecutionStatus, WORK_ORDER, WorkOrderStatus},
};

/// What is decided upon.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// A customer has brought a vehicle.
    Open {
        id: Id,
        opening: Box<Opening>,
        keyed: Option<Keyed>,
    },
    /// Somebody at the garage writes something down.
    Change { id: Id, changes: Box<Changes> },
    /// The customer agrees, as somebody says.
    Approve { id: Id, keyed: Option<Keyed> },
    /// Nothing is to be done.
    Cancel { id: Id },
    /// Another service has told something.
    Heard(Heard),
}

/// An event of another service.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// The work order that it is about.
    id: Id,
    event_type: &'static str,
    /// Of the quote, payment or execution.
    version: u64,
    at: Timestamp,
    cause: Cause,
    fact: Fact,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    QuoteCreated,
    QuoteSent,
    QuoteApproved(QuoteApproved),
    QuoteRejected(QuoteRejected),
    PaymentApproved(PaymentApproved),
    /// A payment came to nothing.
    NotPaid {
        payment_id: Id,
    },
    ExecutionMoved(ExecutionStatusChanged),
    ExecutionCompleted(ExecutionCompleted),
    ExecutionFailed(ExecutionFailed),
}

impl Message {
    /// An event about a work order.
    pub(crate) fn heard<E: EventData>(event: &Event, id: Id, fact: Fact) -> Message {
        Message::Heard(Heard {
            id,
            event_type: E::TYPE,
            version: event.aggregate.version,
            at: event.timestamp,
            cause: Cause::of(event),
            fact,
        })
    }

    /// The same without the event.
    #[cfg(test)]
    pub(crate) fn heard_for_tests(
        id: Id,
        event_type: &'static str,
        version: u64,
        fact: Fact,
    ) -> Message {
        Message::Heard(Heard {
            cause: Cause::root(id.as_str()),
            id,
            event_type,
            version,
            at: Timestamp(1),
            fact,
        })
    }

    fn id(&self) -> &Id {
        match self {
            Message::Open { id, .. }
            | Message::Change { id, .. }
            | Message::Approve { id, .. }
            | Message::Cancel { id }
            | Message::Heard(Heard { id, .. }) => id,
        }
    }
}

/// The decider. It answers with the work order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkOrders;

impl Decider for WorkOrders {
    type Message = Message;
    type Answer = Stored;

    fn keys(&self, message: &Message) -> Vec<Key> {
        let mut keys = vec![key(message.id())];
        if let Message::Open { opening, .. } = message {
            keys.push(registers::customer_key(opening.customer_id));
            keys.push(registers::vehicle_key(opening.vehicle_id));
        }
        keys
    }

    fn decide(
        &self,
        documents: &View<'_>,
        message: &Message,
        now: Timestamp,
    ) -> Result<Decision<Stored>, Refusal> {
        let stored: Option<Stored> = documents.state(&key(message.id()))?;
        if let Message::Open { id, opening, keyed } = message {
            return match stored {
                Some(stored) => opened_before(stored, keyed.as_ref()),
                None => open(documents, id, opening, keyed.as_ref(), now),
            };
        }
        let Some(stored) = stored else {
            let reason = format!("Work order {} not found", message.id());
            return Err(match message {
                Message::Heard(_) => Refusal::malformed(reason),
                _ => Refusal::rejected(NOT_FOUND, reason),
            });
        };
        let cause = match message {
            Message::Heard(heard) => heard.cause.clone(),
            _ => Cause::root(message.id().as_str()),
        };
        let mut course = Course {
            stored,
            emitter: Emitter::new(&CATALOGUE, OS, cause, now),
            now,
            publish: Vec::new(),
        };
        match message {
            Message::Open { .. } => unreachable!("it is decided above"),
            Message::Change { changes, .. } => change(&mut course, changes)?,
            Message::Approve { keyed, .. } => approve(&mut course, keyed.as_ref())?,
            Message::Cancel { .. } => cancel(&mut course)?,
            Message::Heard(heard) => hear(&mut course, heard)?,
        }
        course.stored.order.updated_at = now;
        Ok(course.decision())
    }
}

/// A decision in the making.
struct Course {
    stored: Stored,
    emitter: Emitter<'static>,
    now: Timestamp,
    publish: Vec<Publish>,
}

impl Course {
    fn decision(self) -> Decision<Stored> {
        let stored = self.stored;
        Decision {
            put: vec![Change::set(key(&stored.order.id), &stored, stored.fields())],
            publish: self.publish,
            ..Decision::answer(stored)
        }
    }

    fn status(&self) -> WorkOrderStatus {
        self.stored.order.status
    }

    /// Tells an event of the work order.
    fn tell(&mut self, data: &impl EventData) {
        self.stored.events += 1;
        let event = self.emitter.event(data, self.stored.events);
        self.publish.push(event);
    }

    /// Goes to another status, and tells it.
    fn pass(&mut self, status: WorkOrderStatus, cause: &str) {
        let previous = self.status();
        debug_assert!(WORK_ORDER.allows(previous, status));
        self.stored.pass(status, cause, self.now);
        let data = WorkOrderStatusChanged {
            work_order_id: self.stored.order.id.clone(),
            previous_status: previous,
            new_status: status,
        };
        self.tell(&data);
    }

    /// Cancels it, and tells why.
    fn cancel(&mut self, cause: &str, reason: Option<String>) {
        self.pass(WorkOrderStatus::Cancelled, cause);
        self.stored.order.cancellation_reason.clone_from(&reason);
        let data = WorkOrderCancelled {
            work_order_id: self.stored.order.id.clone(),
            customer_id: self.stored.order.customer_id,
            reason,
        };
        self.tell(&data);
    }

    fn complete(&mut self, cause: &str) {
        self.pass(WorkOrderStatus::Completed, cause);
        self.stored.order.completed_at = Some(self.now);
    }
}

fn open(
    documents: &View<'_>,
    id: &Id,
    opening: &Opening,
    keyed: Option<&Keyed>,
    now: Timestamp,
) -> Result<Decision<Stored>, Refusal> {
    let (customer_id, vehicle_id) = (opening.customer_id, opening.vehicle_id);
    let missing = |what: &str, id: i64| {
        let reason = format!("{what} {id} not found");
        Refusal::rejected(NOT_FOUND, reason)
    };
    let customer_key = registers::customer_key(customer_id);
    let vehicle_key = registers::vehicle_key(vehicle_id);
    let customer: Option<StoredCustomer> = documents.state(&customer_key)?;
    let mut customer = customer.ok_or_else(|| missing("Customer", customer_id))?;
    let vehicle: Option<StoredVehicle> = documents.state(&vehicle_key)?;
    let mut vehicle = vehicle.ok_or_else(|| missing("Vehicle", vehicle_id))?;
    if vehicle.vehicle.customer_id != customer_id {
        let reason = format!("Vehicle {vehicle_id} does not belong to customer {customer_id}");
        return Err(Refusal::rejected(INVALID, reason));
    }
    customer.work_orders += 1;
    vehicle.work_orders += 1;
    let mut served = Served::default();
    served.keep(keyed);
    let mut stored = Stored {
        order: new_order(id, opening, now),
        history: Vec::new(),
        events: 0,
        approved_quote: None,
        paid_by: None,
        payments: Vec::new(),
        executions: Vec::new(),
        served,
    };
    stored.pass(WorkOrderStatus::Pending, "opened", now);
    let mut course = Course {
        stored,
        emitter: Emitter::new(&CATALOGUE, OS, Cause::root(id.as_str()), now),
        now,
        publish: Vec::new(),
    };
    course.tell(&WorkOrderCreated {
        work_order_id: id.clone(),
        customer_id,
        vehicle_id,
        description: opening.description.clone(),
        estimated_cost: opening.estimated_cost,
    });
    let mut decision = course.decision();
    let changed = [customer.change(), vehicle.change()];
    decision.put.extend(changed);
    Ok(decision)
}

fn new_order(id: &Id, opening: &Opening, now: Timestamp) -> WorkOrder {
    WorkOrder {
        id: id.clone(),
        customer_id: opening.customer_id,
        vehicle_id: opening.vehicle_id,
        description: opening.description.clone(),
        status: WorkOrderStatus::Pending,
        estimated_cost: opening.estimated_cost,
        actual_cost: None,
        labor_cost: None,
        parts_cost: None,
        diagnosis: None,
        technician_notes: None,
        customer_approval: false,
        assigned_technician_id: opening.assigned_technician_id.clone(),
        estimated_completion_date: opening.estimated_completion_date.map(|date| date.0),
        completed_at: None,
        services: Vec::new(),
        parts: Vec::new(),
        metadata: opening.metadata.clone(),
        quote_sent_at: None,
        execution_status: None,
        cancellation_reason: None,
        created_at: now,
        updated_at: now,
    }
}

/// The same request again is answered with the work order that it has opened.
fn opened_before(stored: Stored, keyed: Option<&Keyed>) -> Result<Decision<Stored>, Refusal> {
    match stored.served.look(keyed) {
        Seen::Again => Ok(Decision::answer(stored)),
        Seen::New | Seen::Other => Err(other_request()),
    }
}

fn other_request() -> Refusal {
    let reason = "This Idempotency-Key belongs to another request";
    Refusal::rejected(CONFLICT, reason)
}

fn illegal(from: WorkOrderStatus, to: WorkOrderStatus) -> Refusal {
    let (from, to) = (from.as_str(), to.as_str());
    let reason = format!("A work order in {from} cannot become {to}");
    Refusal::rejected(CONFLICT, reason)
}

fn approve(course: &mut Course, keyed: Option<&Keyed>) -> Result<(), Refusal> {
    match course.stored.served.look(keyed) {
        Seen::Again => return Ok(()),
        Seen::Other => return Err(other_request()),
        Seen::New => {}
    }
    // From IN_PROGRESS it is a payment that leads back to APPROVED, nothing else.
    let legal = matches!(
        course.status(),
        WorkOrderStatus::Pending | WorkOrderStatus::QuoteSent
    );
    if !legal {
        return Err(illegal(course.status(), WorkOrderStatus::Approved));
    }
    course.stored.served.keep(keyed);
    course.stored.order.customer_approval = true;
    course.pass(WorkOrderStatus::Approved, "approved by request");
    let data = WorkOrderApproved {
        work_order_id: course.stored.order.id.clone(),
        customer_id: course.stored.order.customer_id,
    };
    course.tell(&data);
    Ok(())
}

/// Cancelled once more it stays so, and nothing is told.
fn cancel(course: &mut Course) -> Result<(), Refusal> {
    let status = course.status();
    if status == WorkOrderStatus::Cancelled {
        return Ok(());
    }
    if !WORK_ORDER.allows(status, WorkOrderStatus::Cancelled) {
        return Err(illegal(status, WorkOrderStatus::Cancelled));
    }
    let reason = Some("cancelled by request".to_owned());
    course.cancel("cancelled by request", reason);
    Ok(())
}

fn change(course: &mut Course, changes: &Changes) -> Result<(), Refusal> {
    if let Some(status) = changes.status
        && status != course.status()
    {
        check_settable(course.status(), status)?;
    }
    let changes = changes.clone();
    let order = &mut course.stored.order;
    if let Some(description) = changes.description {
        order.description = description;
    }
    if let Some(approval) = changes.customer_approval {
        order.customer_approval = approval;
    }
    if let Some(services) = changes.services {
        order.services = services;
    }
    if let Some(parts) = changes.parts {
        order.parts = parts;
    }
    let date = changes.estimated_completion_date.map(|date| date.0);
    replace(&mut order.estimated_cost, changes.estimated_cost);
    replace(&mut order.actual_cost, changes.actual_cost);
    replace(&mut order.labor_cost, changes.labor_cost);
    replace(&mut order.parts_cost, changes.parts_cost);
    replace(&mut order.diagnosis, changes.diagnosis);
    replace(&mut order.technician_notes, changes.technician_notes);
    replace(
        &mut order.assigned_technician_id,
        changes.assigned_technician_id,
    );
    replace(&mut order.estimated_completion_date, date);
    replace(&mut order.metadata, changes.metadata);
    match changes.status {
        Some(status) if status == course.status() => {}
        Some(WorkOrderStatus::Cancelled) => cancel(course)?,
        Some(status) => course.pass(status, "changed by request"),
        None => {}
    }
    Ok(())
}

fn replace<T>(old: &mut Option<T>, new: Option<T>) {
    if new.is_some() {
        *old = new;
    }
}

/// A request may set some statuses only; the others follow from events.
fn check_settable(from: WorkOrderStatus, to: WorkOrderStatus) -> Result<(), Refusal> {
    use WorkOrderStatus::{
        AwaitingQuote, Cancelled, Delivered, Diagnosis, InProgress, WaitingParts,
    };
    let settable = match to {
        Diagnosis | AwaitingQuote | WaitingParts | Delivered | Cancelled => true,
        InProgress => from == WaitingParts,
        _ => false,
    };
    if settable && WORK_ORDER.allows(from, to) {
        Ok(())
    } else {
        Err(illegal(from, to))
    }
}

fn hear(course: &mut Course, heard: &Heard) -> Result<(), Refusal> {
    match &heard.fact {
        Fact::QuoteCreated => {
            arrives(course, heard, WorkOrderStatus::QuoteSent)?;
            course.pass(WorkOrderStatus::QuoteSent, heard.event_type);
        }
        Fact::QuoteSent => {
            if course.stored.order.quote_sent_at.is_some() {
                return Err(stale(course, heard));
            }
            course.stored.order.quote_sent_at = Some(heard.at);
        }
        Fact::QuoteApproved(data) => quote_approved(course, heard, data)?,
        Fact::QuoteRejected(data) => quote_rejected(course, heard, data)?,
        Fact::PaymentApproved(data) => payment_approved(course, heard, data)?,
        Fact::NotPaid { payment_id } => not_paid(course, heard, payment_id)?,
        Fact::ExecutionMoved(data) => {
            if !progress(course, heard, &data.execution_id, data.new_status) {
                return Err(stale(course, heard));
            }
        }
        Fact::ExecutionCompleted(data) => {
            arrives(course, heard, WorkOrderStatus::Completed)?;
            progress(
                course,
                heard,
                &data.execution_id,
                ExecutionStatus::Completed,
            );
            course.complete(heard.event_type);
        }
        Fact::ExecutionFailed(data) => {
            let failed = ExecutionStatus::Failed;
            let is_news = progress(course, heard, &data.execution_id, failed);
            if WORK_ORDER.allows(course.status(), WorkOrderStatus::Cancelled) {
                course.cancel(heard.event_type, Some(data.reason.clone()));
            } else if !is_news {
                return Err(stale(course, heard));
            }
        }
    }
    Ok(())
}

/// Whether an event comes at its time.
fn arrives(course: &Course, heard: &Heard, to: WorkOrderStatus) -> Result<(), Refusal> {
    match WORK_ORDER.arrival(course.status(), to) {
        Arrival::Next => Ok(()),
        Arrival::Early => Err(early(course, heard)),
        Arrival::Stale => Err(stale(course, heard)),
    }
}

fn early(course: &Course, heard: &Heard) -> Refusal {
    Refusal::Early {
        order: heard.version,
        reason: words(course, heard),
    }
}

fn stale(course: &Course, heard: &Heard) -> Refusal {
    Refusal::stale(words(course, heard))
}

fn words(course: &Course, heard: &Heard) -> String {
    let status = course.status().as_str();
    format!("{} for a work order in {status}", heard.event_type)
}

fn quote_approved(course: &mut Course, heard: &Heard, data: &QuoteApproved) -> Result<(), Refusal> {
    use WorkOrderStatus::{
        Approved, AwaitingQuote, Diagnosis, InProgress, Pending, QuoteSent, Received, WaitingParts,
    };
    let known = course.stored.approved_quote.is_some();
    match course.status() {
        Pending | QuoteSent => {
            course.pass(Approved, heard.event_type);
            course.stored.order.customer_approval = true;
        }
        Received | Diagnosis | AwaitingQuote => return Err(early(course, heard)),
        // Approved by request, before Billing said so.
        Approved | InProgress | WaitingParts if !known => {}
        _ => return Err(stale(course, heard)),
    }
    course.stored.approved_quote = Some(data.quote_id.clone());
    Ok(())
}

fn quote_rejected(course: &mut Course, heard: &Heard, data: &QuoteRejected) -> Result<(), Refusal> {
    let approved = course.stored.approved_quote.as_ref();
    let is_other = approved.is_some_and(|approved| *approved != data.quote_id);
    if is_other || !WORK_ORDER.allows(course.status(), WorkOrderStatus::Cancelled) {
        return Err(stale(course, heard));
    }
    let reason = data.reason.as_deref().unwrap_or("the quote was rejected");
    course.cancel(heard.event_type, Some(reason.to_owned()));
    Ok(())
}

fn payment_approved(
    course: &mut Course,
    heard: &Heard,
    data: &PaymentApproved,
) -> Result<(), Refusal> {
    let mut payments = course.stored.payments.clone();
    let is_news = is_newest(&mut payments, &data.payment_id, heard.version);
    match course.status() {
        WorkOrderStatus::Approved if is_news => {
            course.pass(WorkOrderStatus::InProgress, heard.event_type);
            course.stored.paid_by = Some(data.payment_id.clone());
            course.stored.payments = payments;
            Ok(())
        }
        // Another payment than the one that work has begun with.
        WorkOrderStatus::WaitingParts => Err(stale(course, heard)),
        _ if is_news => Err(arrives(course, heard, WorkOrderStatus::InProgress)
            .err()
            .unwrap_or_else(|| stale(course, heard))),
        _ => Err(stale(course, heard)),
    }
}

/// Leads back only from where this payment has led.
fn not_paid(course: &mut Course, heard: &Heard, payment_id: &Id) -> Result<(), Refusal> {
    if !is_newest(&mut course.stored.payments, payment_id, heard.version) {
        return Err(stale(course, heard));
    }
    let is_paid_by_it = course.stored.paid_by.as_ref() == Some(payment_id);
    if course.status() == WorkOrderStatus::InProgress && is_paid_by_it {
        course.pass(WorkOrderStatus::Approved, heard.event_type);
        course.stored.paid_by = None;
    }
    Ok(())
}

/// Notes how far the work has come; whether that is news.
fn progress(course: &mut Course, heard: &Heard, id: &Id, status: ExecutionStatus) -> bool {
    let is_news = is_newest(&mut course.stored.executions, id, heard.version);
    if is_news {
        course.stored.order.execution_status = Some(status);
    }
    is_news
}
