//! The example's files: those of the current directory, so that an edit shows, else those this program was built with.

/// A file and its text.
#[derive(Debug)]
pub(crate) struct Example {
    /// Its path, for messages.
    pub(crate) name: &'static str,
    /// What it says.
    pub(crate) text: String,
}

/// The workflow of the demo.
pub(crate) fn workflow() -> Example {
    const BUILT_IN: &str = include_str!("../../../../examples/workflows/order-fulfilment.yaml");
    example("examples/workflows/order-fulfilment.yaml", BUILT_IN)
}

/// The orders of the demo, one a line.
pub(crate) fn orders() -> Example {
    const BUILT_IN: &str = include_str!("../../../../examples/data/orders.jsonl");
    example("examples/data/orders.jsonl", BUILT_IN)
}

fn example(name: &'static str, built_in: &str) -> Example {
    let text = std::fs::read_to_string(name).unwrap_or_else(|_| built_in.to_owned());
    Example { name, text }
}
