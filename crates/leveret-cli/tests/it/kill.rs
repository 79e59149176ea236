//! Processes die and servers go away in the middle of the work: real processes, real servers, `kill -9`. Every run that was accepted
//! ends exactly once.
//!
//! What needs RabbitMQ and PostgreSQL finds them by `LEVERET_TEST_AMQP_URL` and `LEVERET_TEST_POSTGRES_URL`; what breaks servers starts
//! its own with the program in `LEVERET_TEST_XTASK`.

// What completion messages told, and what must hold of every run in the end.
mod completions;
// Clients that start runs, and what they start.
mod load;
// An engine in this process, and workers in processes of their own.
mod rig;
// The servers that a test is given, a database of its own, and servers to break.
pub(crate) mod servers;

pub(crate) use self::servers::Place;

// Workers are killed in the middle of a batch.
mod batches;
// Workers are asked to stop.
mod drain;
// `leveret up` is killed. Needs nothing installed.
mod embedded;
mod foreign;
// Messages that are no jobs.
mod messages;
// RabbitMQ and PostgreSQL stop, crash and come back.
mod outages;
// A step that ends its worker's process.
mod poison;
// RabbitMQ is there and refuses what is published.
mod refusals;
// Servers are killed while schedules are due.
mod schedules;
// Processes are killed while signals come.
mod signals;
// Runs are started while RabbitMQ is away.
mod starts;
// Workers are killed.
mod workers;
