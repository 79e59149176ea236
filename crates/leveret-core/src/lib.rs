//! The pure half of Leveret.
//!
//! The workflow model, its validation, expressions, the decider and retry policy. Nothing here is
//! async, does I/O, reads a clock, draws randomness or logs: time and randomness are arguments.

pub mod broadcast;
pub mod decide;
pub mod each;
pub mod edit;
pub mod event;
pub mod expr;
pub mod form;
pub mod graph;
pub mod ids;
pub mod json;
pub mod machine;
pub mod mermaid;
pub mod parse;
pub mod retry;
pub mod schedule;
pub mod script;
pub mod suggest;
pub mod template;
pub mod time;
pub mod workflow;
