//! Integration tests of `leveret`, one binary.

// RabbitMQ behind the broker seam: conformance, chaos, throughput. Needs `LEVERET_TEST_AMQP_URL`.
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
