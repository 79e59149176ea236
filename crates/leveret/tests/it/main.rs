//! Integration tests of `leveret`, one binary.

// An engine for tests, and short texts for blueprints.
mod harness;

// The example of a service, with its test in a world of its own.
#[path = "../../examples/account.rs"]
mod account;
// Batches: items, limits, failures, what names mean in them.
mod batches;
// Bounds on what expressions make of a step.
mod bounds;
// Heart and nodes in one process: promises, and simulation by seed.
mod broadcast;
// The messages that tell how runs ended.
mod completion;
// Jobs that name another definition or input than their run's.
mod definitions;
// Edges on failure.
mod failures;
// flowcraft's conformance cases, each a run on a real engine.
mod flowcraft;
// The example, which asserts what it prints.
#[path = "../../examples/greet.rs"]
mod greet;
// Node types: built-in ones, functions, and `http` against a server.
mod nodes;
// Loops: conditions, passes, what names mean in them.
mod loops;
// Runs whose values are large, or many.
mod large;
// The store on PostgreSQL: conformance, reconnecting, migrations, and a measurement. Needs `LEVERET_TEST_POSTGRES_URL`.
#[cfg(feature = "postgres")]
mod postgres;
// RabbitMQ behind the broker seam: conformance, chaos, throughput. Needs `LEVERET_TEST_AMQP_URL`.
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
// Requests and their answers.
mod requests;
// Secrets in the errors of steps.
mod secrets;
// Waits for signals, and signals by call and message.
mod signals;
// Simulation by seed: crashes, lost answers, duplicates, delays.
mod sim;
// Runs that stand still, and runs that only look so.
mod stalled;
// The messages that tell what happens to steps.
mod status;
// Steps that are delivered too often.
mod suspects;
// TLS to real servers.
#[cfg(all(feature = "postgres", feature = "rabbitmq"))]
mod tls;
mod waiting;
// A work queue's message that ends its process, in real processes. Also over RabbitMQ where `LEVERET_TEST_AMQP_URL` is set.
mod work;

#[test]
fn the_example_greets() {
    greet::main().unwrap();
}

#[test]
fn the_example_pays_in() {
    account::main().unwrap();
}
