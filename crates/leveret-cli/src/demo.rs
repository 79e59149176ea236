//! What the examples talk to.

pub(crate) mod payments;
