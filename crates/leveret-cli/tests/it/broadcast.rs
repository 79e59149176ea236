//! A heart and its nodes as real processes, over RabbitMQ: killed, cut off, filled up and joined under load. In the end the contents of all
//! nodes are equal, and the recorded history holds: no acknowledged write is lost or doubled, reads keep their levels.
//!
//! What needs RabbitMQ finds it by `LEVERET_TEST_AMQP_URL`; what breaks it starts its own with the program in `LEVERET_TEST_XTASK`.

// What clients did and heard, and what must hold of it.
mod history;
// Clients that write and read.
mod load;
// Processes of one cluster, in a directory of their own.
mod rig;

// Another node at the address of one that is gone.
mod addresses;
// Heart and node end at each boundary.
mod crashed;
// Everything in one process: needs nothing installed.
mod embedded;
// A node's disk is full, its contents are changed behind its back, its queue takes what is no write.
mod faults;
// Hearts that follow each other, on one log in PostgreSQL.
mod hearts;
// Nodes come, go, and take another's name.
mod joining;
// SQLite and PostgreSQL nodes in one cluster.
mod kinds;
// Heart and nodes are killed, the broker is restarted, a queue is deleted.
mod killed;
// A log that is lost, put back from an older copy, or truncated.
mod logs;
// Tokens and their scopes, at hearts and nodes.
mod tokens;
// `heart.yaml` and `node.yaml` with mistakes.
mod settings;
