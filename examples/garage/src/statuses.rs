//! Which statuses there are, and which may follow which: declared here once, asked by the services, drawn into the documentation by a test.

use leveret::core::machine::Machine;
use serde::{Deserialize, Serialize};

/// Statuses with their words and their machine.
macro_rules! statuses {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)+ } $machine:ident: $($from:ident -> $($to:ident),+;)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub(crate) enum $name {
            $($(#[$each])* #[serde(rename = $word)] $variant,)+
        }

        // Not every status is asked for by its word.
        #[allow(dead_code)]
        impl $name {
            /// All of them.
            pub(crate) const ALL: &[$name] = &[$($name::$variant),+];

            /// As it is written.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            /// The status of a word.
            pub(crate) fn parse(word: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|status| status.as_str() == word)
            }
        }

        /// Its legal transitions.
        pub(crate) const $machine: Machine<$name> = Machine::new(&[$($(($name::$from, $name::$to)),+),+]);
    };
}

statuses! {
    /// Where a work order stands.
    WorkOrderStatus {
        /// Taken in, before it is a work order.
        Received = "RECEIVED",
        /// New.
        Pending = "PENDING",
        /// Somebody looks at the vehicle.
        Diagnosis = "DIAGNOSIS",
        /// A quote is to be made.
        AwaitingQuote = "AWAITING_QUOTE",
        /// The customer has a quote.
        QuoteSent = "QUOTE_SENT",
        /// The customer has agreed.
        Approved = "APPROVED",
        /// Paid, and worked on.
        InProgress = "IN_PROGRESS",
        /// Work stands still for want of parts.
        WaitingParts = "WAITING_PARTS",
        /// The work is done.
        Completed = "COMPLETED",
        /// The customer has the vehicle back.
        Delivered = "DELIVERED",
        /// Nothing will be done; what was paid goes back.
        Cancelled = "CANCELLED",
    }
    WORK_ORDER:
        Received -> Pending, Cancelled;
        Pending -> Diagnosis, AwaitingQuote, QuoteSent, Approved, Cancelled;
        Diagnosis -> AwaitingQuote, Cancelled;
        AwaitingQuote -> QuoteSent, Cancelled;
        QuoteSent -> Approved, Cancelled;
        Approved -> InProgress, Cancelled;
        InProgress -> WaitingParts, Completed, Approved, Cancelled;
        WaitingParts -> InProgress, Cancelled;
        Completed -> Delivered;
}

statuses! {
    /// Where a quote stands.
    QuoteStatus {
        /// Made.
        Pending = "PENDING",
        /// The customer has it.
        Sent = "SENT",
        /// The customer agrees.
        Approved = "APPROVED",
        /// The customer does not agree, or the work order is cancelled.
        Rejected = "REJECTED",
        /// Nobody has answered in time.
        Expired = "EXPIRED",
    }
    QUOTE:
        Pending -> Sent, Approved, Rejected, Expired;
        Sent -> Approved, Rejected, Expired;
}

statuses! {
    /// Where a payment stands.
    PaymentStatus {
        /// Wanted.
        Pending = "PENDING",
        /// The gateway is asked.
        Processing = "PROCESSING",
        /// Charged.
        Approved = "APPROVED",
        /// Not charged.
        Rejected = "REJECTED",
        /// The money is back.
        Refunded = "REFUNDED",
    }
    PAYMENT:
        Pending -> Processing, Rejected;
        Processing -> Approved, Rejected;
        Approved -> Refunded;
}

statuses! {
    /// Where an execution stands.
    ExecutionStatus {
        /// Waits for its turn.
        Queued = "QUEUED",
        /// The fault is looked for.
        Diagnosing = "DIAGNOSING",
        /// The fault is known.
        DiagnosisComplete = "DIAGNOSIS_COMPLETE",
        /// The fault is mended.
        Repairing = "REPAIRING",
        /// It is mended.
        RepairComplete = "REPAIR_COMPLETE",
        /// It is tried.
        Testing = "TESTING",
        /// All is well.
        Completed = "COMPLETED",
        /// It cannot be mended, or need not be.
        Failed = "FAILED",
    }
    EXECUTION:
        Queued -> Diagnosing, Failed;
        Diagnosing -> DiagnosisComplete, Failed;
        DiagnosisComplete -> Repairing, Failed;
        Repairing -> RepairComplete, Failed;
        RepairComplete -> Testing, Completed, Failed;
        Testing -> Completed, Repairing, Failed;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the README draws is what is declared.
    #[test]
    fn drawn_in_the_readme() {
        let readme = include_str!("../README.md");
        use WorkOrderStatus::{Pending, Received};
        for chart in [
            WORK_ORDER.mermaid(&[Received, Pending], WorkOrderStatus::as_str),
            QUOTE.mermaid(&[QuoteStatus::Pending], QuoteStatus::as_str),
            PAYMENT.mermaid(&[PaymentStatus::Pending], PaymentStatus::as_str),
            EXECUTION.mermaid(&[ExecutionStatus::Queued], ExecutionStatus::as_str),
        ] {
            let block = format!("```mermaid\n{chart}```");
            assert!(readme.contains(&block), "put this into README.md:\n{block}");
        }
    }
}
