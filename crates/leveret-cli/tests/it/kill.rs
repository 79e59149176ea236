//! Processes die and servers go away in the middle of the work: real processes, real servers, `kill -9`. Every run that was accepted
//! ends exactly once.
//!
//! What needs RabbitMQ and PostgreSQL finds them by `LEVERET_TEST_AMQP_URL` and `LEVERET_TEST_POSTGRES_URL`; what breaks servers starts
//! its own with the program in `LEVERET_TEST_XTASK`.

// An engine, worker processes, clients, and what came of the runs.
mod rig;
// The servers that a test is given, a database of its own, and servers to break.
mod servers;

// Messages that are no jobs.
mod messages;
// RabbitMQ and PostgreSQL stop, crash and come back.
mod outages;
// Workers are killed.
mod workers;
