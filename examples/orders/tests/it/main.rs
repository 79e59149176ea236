//! Tests of the orders system, as its users see it.

mod demo;
