//! Integration tests of `leveret`, one binary.

// An engine for tests, and short texts for blueprints.
mod harness;

// flowcraft's conformance cases, each a run on a real engine.
mod flowcraft;
// Simulation by seed: crashes, lost answers, duplicates, delays.
mod sim;
// RabbitMQ behind the broker seam: conformance, chaos, throughput. Needs `LEVERET_TEST_AMQP_URL`.
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
