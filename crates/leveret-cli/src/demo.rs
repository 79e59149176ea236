//! The demo's parts: the payment service that the examples talk to, the example's files, and the report on its outcomes.

pub(crate) mod files;
pub(crate) mod payments;
pub(crate) mod report;
