//! The garage as its users have it: real processes, real servers. What needs RabbitMQ, PostgreSQL and MongoDB finds them by `LEVERET_TEST_AMQP_URL`,
//! `LEVERET_TEST_POSTGRES_URL` and `LEVERET_TEST_MONGODB_URL`; the queues' names are a contract, so such tests run one after another.

mod courses;
mod rig;
#[path = "../../../orders/tests/it/servers.rs"]
mod servers;

mod crashed;
mod demo;
mod deploy;
mod malformed;
mod outages;
mod saga;
