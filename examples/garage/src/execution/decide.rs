//! What becomes of an execution. `quote.approved` and `payment.approved` may come in any order; what has ended stays as it is.

use leveret::{
    core::{event::Event, time::Timestamp},
    service::{
        Aggregate, Next, Publish, Refusal,
        events::{Cause, Emitter},
    },
};

use super::state::{ExecutionState, KIND, id_of};
use crate::{
    events::{
        CATALOGUE, EXECUTION, ExecutionCompleted, ExecutionCreated, ExecutionFailed,
        ExecutionStatusChanged, PartUsed, PaymentApproved, QuoteApproved, ServicePerformed,
        WorkOrderCancelled, WorkOrderStatusChanged,
    },
    failure::{CONFLICT, NOT_FOUND},
    ids::Id,
    request::{Keyed, Seen},
    statuses::{EXECUTION as MACHINE, ExecutionStatus},
};

/// What is decided upon.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    QuoteApproved(Event, QuoteApproved),
    PaymentApproved(Event, PaymentApproved),
    WorkOrderCancelled(Event, WorkOrderCancelled),
    WorkOrderStatusChanged(Event, WorkOrderStatusChanged),
    Create(Create),
    Change(Change),
}

/// Somebody wants an execution.
#[derive(Clone, Debug)]
pub(crate) struct Create {
    pub(crate) work_order_id: Id,
    pub(crate) technician_id: String,
    pub(crate) quote_id: Option<Id>,
    pub(crate) priority: i64,
    pub(crate) request: Option<Keyed>,
}

/// Somebody goes on with one, or notes something.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) id: Id,
    pub(crate) to: Option<ExecutionStatus>,
    /// Whether it is no mistake that it has that status already.
    pub(crate) may_stay: bool,
    pub(crate) noted: Noted,
    pub(crate) request: Option<Keyed>,
}

/// What is noted; what is none stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Noted {
    pub(crate) technician_id: Option<String>,
    pub(crate) priority: Option<i64>,
    pub(crate) diagnosis_notes: Option<String>,
    pub(crate) repair_notes: Option<String>,
    pub(crate) parts_used: Option<Vec<PartUsed>>,
    pub(crate) services_performed: Option<Vec<ServicePerformed>>,
    /// Why it fails, when it does.
    pub(crate) reason: Option<String>,
}

/// The decider of executions.
pub(crate) struct Executions;

type Decided = Result<Next<ExecutionState>, Refusal>;

impl Aggregate for Executions {
    const KIND: &'static str = KIND;
    type State = ExecutionState;
    type Message = Message;

    fn id(message: &Message) -> String {
        let id = match message {
            Message::QuoteApproved(_, data) => id_of(&data.work_order_id),
            Message::PaymentApproved(_, data) => id_of(&data.work_order_id),
            Message::WorkOrderCancelled(_, data) => id_of(&data.work_order_id),
            Message::WorkOrderStatusChanged(_, data) => id_of(&data.work_order_id),
            Message::Create(create) => id_of(&create.work_order_id),
            Message::Change(change) => change.id.clone(),
        };
        id.to_string()
    }

    fn fields(state: &ExecutionState) -> Vec<(&'static str, String)> {
        state.fields()
    }

    fn decide(state: Option<ExecutionState>, message: &Message, now: Timestamp) -> Decided {
        let known = |work_order_id| {
            state
                .clone()
                .unwrap_or_else(|| ExecutionState::unknown(work_order_id, now))
        };
        match message {
            Message::QuoteApproved(event, data) => {
                Course::new(known(&data.work_order_id), Cause::of(event), now).quote_approved(data)
            }
            Message::PaymentApproved(event, data) => {
                Course::new(known(&data.work_order_id), Cause::of(event), now)
                    .payment_approved(data)
            }
            Message::WorkOrderCancelled(event, data) => {
                Course::new(known(&data.work_order_id), Cause::of(event), now).cancelled(data)
            }
            Message::WorkOrderStatusChanged(event, data) => {
                work_order_status(known(&data.work_order_id), event, data)
            }
            Message::Create(create) => {
                let cause = Cause::root(create.work_order_id.as_str());
                Course::new(known(&create.work_order_id), cause, now).create(create)
            }
            Message::Change(change) => {
                let state = state.filter(|state| state.status.is_some());
                let unknown = || {
                    let reason = format!("Execution {} not found", change.id);
                    Refusal::rejected(NOT_FOUND, reason)
                };
                let state = state.ok_or_else(unknown)?;
                let cause = Cause::root(state.work_order_id.as_str());
                Course::new(state, cause, now).change(change)
            }
        }
    }
}

/// Keeps what the OS service says of the work order. Nothing follows from it.
fn work_order_status(
    mut state: ExecutionState,
    event: &Event,
    data: &WorkOrderStatusChanged,
) -> Decided {
    let version = event.aggregate.version;
    if state
        .work_order
        .is_some_and(|(_, newest)| newest >= version)
    {
        return Err(Refusal::stale("a newer status of the work order is known"));
    }
    state.work_order = Some((data.new_status, version));
    Ok(Next::state(state))
}

/// An execution on its way, with what is told of it.
struct Course {
    state: ExecutionState,
    emitter: Emitter<'static>,
    now: Timestamp,
    publish: Vec<Publish>,
}

impl Course {
    fn new(state: ExecutionState, cause: Cause, now: Timestamp) -> Course {
        Course {
            state,
            emitter: Emitter::new(&CATALOGUE, EXECUTION, cause, now),
            now,
            publish: Vec::new(),
        }
    }

    fn done(mut self) -> Next<ExecutionState> {
        self.state.updated_at = self.now;
        Next::state(self.state).publish(self.publish)
    }

    fn quote_approved(mut self, data: &QuoteApproved) -> Decided {
        self.is_wanted()?;
        let is_known = self.state.quote_id.as_ref() == Some(&data.quote_id);
        if self.state.quote_approved && (is_known || self.state.payment_id.is_some()) {
            return Err(Refusal::stale("an approved quote is known"));
        }
        self.state.quote_approved = true;
        if self.state.payment_id.is_none() {
            self.state.quote_id = Some(data.quote_id.clone());
        }
        self.created();
        Ok(self.done())
    }

    fn payment_approved(mut self, data: &PaymentApproved) -> Decided {
        self.is_wanted()?;
        if self.state.payment_id.is_some() {
            return Err(Refusal::stale("it is paid"));
        }
        self.state.payment_id = Some(data.payment_id.clone());
        self.state.quote_id = Some(data.quote_id.clone());
        self.created();
        Ok(self.done())
    }

    /// Whether anything may become of the work order.
    fn is_wanted(&self) -> Result<(), Refusal> {
        if let Some(reason) = &self.state.cancelled {
            return Err(Refusal::stale(format!("cancelled: {reason}")));
        }
        match self.state.status {
            Some(status) if MACHINE.is_final(status) => {
                Err(Refusal::stale(format!("it is {}", status.as_str())))
            }
            _ => Ok(()),
        }
    }

    fn cancelled(mut self, data: &WorkOrderCancelled) -> Decided {
        if self.state.cancelled.is_some() {
            return Err(Refusal::stale("it is cancelled"));
        }
        let reason = match &data.reason {
            Some(reason) => format!("The work order is cancelled: {reason}"),
            None => "The work order is cancelled".to_owned(),
        };
        self.state.cancelled = Some(reason.clone());
        if self.state.is_active() {
            self.state.failure_reason = Some(reason);
            self.become_status(ExecutionStatus::Failed);
        }
        Ok(self.done())
    }

    fn create(mut self, create: &Create) -> Decided {
        if self.is_served(create.request.as_ref())? {
            return Ok(Next::state(self.state));
        }
        if let Some(reason) = &self.state.cancelled {
            return Err(Refusal::rejected(CONFLICT, reason.clone()));
        }
        if self.state.status.is_some() {
            let reason = format!(
                "Work order {} has the execution {}",
                self.state.work_order_id, self.state.id
            );
            return Err(Refusal::rejected(CONFLICT, reason));
        }
        self.state.technician_id.clone_from(&create.technician_id);
        self.state.quote_id.clone_from(&create.quote_id);
        self.state.priority = create.priority;
        self.state.served.keep(create.request.as_ref());
        self.created();
        Ok(self.done())
    }

    fn change(mut self, change: &Change) -> Decided {
        if self.is_served(change.request.as_ref())? {
            return Ok(Next::state(self.state));
        }
        let from = self.state.status.expect("there is one");
        let to = change.to.filter(|to| !(change.may_stay && *to == from));
        self.may_change(from, to)?;
        let Noted {
            technician_id,
            priority,
            diagnosis_notes,
            repair_notes,
            parts_used,
            services_performed,
            reason,
        } = change.noted.clone();
        let state = &mut self.state;
        state.technician_id = technician_id.unwrap_or_else(|| state.technician_id.clone());
        state.priority = priority.unwrap_or(state.priority);
        state.diagnosis_notes = diagnosis_notes.or_else(|| state.diagnosis_notes.take());
        state.repair_notes = repair_notes.or_else(|| state.repair_notes.take());
        state.parts_used = parts_used.unwrap_or_else(|| std::mem::take(&mut state.parts_used));
        let services = services_performed;
        state.services_performed =
            services.unwrap_or_else(|| std::mem::take(&mut state.services_performed));
        state.served.keep(change.request.as_ref());
        if let Some(to) = to {
            if to == ExecutionStatus::Failed {
                let unsaid = || "The work could not be done".to_owned();
                self.state.failure_reason = Some(reason.unwrap_or_else(unsaid));
            }
            self.become_status(to);
        }
        Ok(self.done())
    }

    /// Whether the request was served before.
    fn is_served(&self, request: Option<&Keyed>) -> Result<bool, Refusal> {
        match self.state.served.look(request) {
            Seen::New => Ok(false),
            Seen::Again => Ok(true),
            Seen::Other => {
                let reason = "The Idempotency-Key belongs to another request";
                Err(Refusal::rejected(CONFLICT, reason))
            }
        }
    }

    /// Whether it may be worked on.
    fn may_change(
        &self,
        from: ExecutionStatus,
        to: Option<ExecutionStatus>,
    ) -> Result<(), Refusal> {
        let no = |reason: String| Err(Refusal::rejected(CONFLICT, reason));
        if MACHINE.is_final(from) {
            return no(format!("Execution is already {}", from.as_str()));
        }
        let Some(to) = to else { return Ok(()) };
        if self.state.payment_id.is_none() {
            return no("The work order is not paid".to_owned());
        }
        if from == to {
            return no(format!("Execution is already {}", from.as_str()));
        }
        if MACHINE.allows(from, to) {
            return Ok(());
        }
        let (from, to) = (from.as_str(), to.as_str());
        no(format!("An execution that is {from} cannot become {to}"))
    }

    /// It is there from now on, if it was not.
    fn created(&mut self) {
        if self.state.status.is_some() {
            return;
        }
        self.state.status = Some(ExecutionStatus::Queued);
        self.state.created_at = self.now;
        self.state.version += 1;
        let created = ExecutionCreated {
            execution_id: self.state.id.clone(),
            work_order_id: self.state.work_order_id.clone(),
            technician_id: self.state.technician_id.clone(),
            status: ExecutionStatus::Queued,
        };
        let created = self.emitter.event(&created, self.state.version);
        self.publish.push(created);
    }

    /// It has another status from now on: one that may follow.
    fn become_status(&mut self, to: ExecutionStatus) {
        let state = &mut self.state;
        let from = state.status.expect("there is one");
        assert!(MACHINE.allows(from, to), "{from:?} becomes {to:?}");
        state.status = Some(to);
        let since = match to {
            ExecutionStatus::Diagnosing => &mut state.started_at,
            ExecutionStatus::DiagnosisComplete => &mut state.diagnosis_completed_at,
            ExecutionStatus::RepairComplete => &mut state.repair_completed_at,
            ExecutionStatus::Completed => &mut state.completed_at,
            ExecutionStatus::Failed => &mut state.failed_at,
            ExecutionStatus::Queued | ExecutionStatus::Repairing | ExecutionStatus::Testing => {
                &mut None
            }
        };
        since.get_or_insert(self.now);
        state.version += 1;
        let changed = ExecutionStatusChanged {
            execution_id: state.id.clone(),
            work_order_id: state.work_order_id.clone(),
            previous_status: from,
            new_status: to,
        };
        self.publish
            .push(self.emitter.event(&changed, state.version));
        self.tell_end(to);
    }

    fn tell_end(&mut self, status: ExecutionStatus) {
        let state = &mut self.state;
        let (execution_id, work_order_id) = (state.id.clone(), state.work_order_id.clone());
        let told = match status {
            ExecutionStatus::Completed => {
                let completed = ExecutionCompleted {
                    execution_id,
                    work_order_id,
                    parts_used: state.parts_used.clone(),
                    services_performed: state.services_performed.clone(),
                };
                self.emitter.event(&completed, state.version + 1)
            }
            ExecutionStatus::Failed => {
                let failed = ExecutionFailed {
                    execution_id,
                    work_order_id,
                    reason: state.failure_reason.clone().unwrap_or_default(),
                };
                self.emitter.event(&failed, state.version + 1)
            }
            _ => return,
        };
        state.version += 1;
        self.publish.push(told);
    }
}
