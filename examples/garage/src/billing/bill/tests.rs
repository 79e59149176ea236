//! What follows from what, as tables.
