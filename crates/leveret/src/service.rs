//! Services: messages change documents, and what follows from that goes out, all in one commit.
//!
//! [`Documents`] is the seam of their state.

pub mod decider;
mod desk;
pub mod documents;

pub use self::documents::{Documents, DocumentsError};
