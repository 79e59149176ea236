//! The demos' parts: the payment service that the examples talk to, the example's files, the report on its outcomes; and a cluster of
//! databases.

pub(crate) mod broadcast;
pub(crate) mod files;
pub(crate) mod payments;
pub(crate) mod report;
