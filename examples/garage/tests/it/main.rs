//! The garage as its users have it: real processes, real servers.

mod deploy;
