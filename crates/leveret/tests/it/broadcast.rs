//! Clusters in one process: a heart, nodes over a model of a database, and a broker in memory. The parts between are the real ones.

// Hearts and nodes that are started, killed and started again.
mod cluster;
// Hearts that follow each other, and hearts whose log is not what their nodes know.
mod hearts;
// What clients saw, and whether the promises hold.
mod history;
// A database with two statements.
mod model;
// Acknowledgement levels, keys, reads, membership, divergence, recovery.
mod promises;
// Clusters that crash, lose, double and reorder, by seed.
mod sim;
