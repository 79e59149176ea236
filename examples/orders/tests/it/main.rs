//! Tests of the orders system, as its users see it. What needs RabbitMQ and PostgreSQL finds them by `LEVERET_TEST_AMQP_URL` and
//! `LEVERET_TEST_POSTGRES_URL`; the queues' names are a contract, so such tests run one after another.

mod rig;

mod crashed;
mod dead_letters;
mod demo;
mod foreign;
mod gateways;
mod http;
mod killed;
mod malformed;
mod outages;
mod repeated;
mod servers;
