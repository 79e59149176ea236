//! The demo, as a new user runs it.

use std::process::Command;

/// Every order ends, every outcome is there, and the books add up.
#[test]
fn plays_every_outcome() {
    let output = Command::new(env!("CARGO_BIN_EXE_orders"))
        .args(["demo", "--orders", "60"])
        .output()
        .expect("runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    for line in [
        "CANCELLED             3",
        "COMPLETED            51",
        "PAYMENT_FAILED        6",
        "all                  60",
        "no order charged twice: true",
    ] {
        assert!(told.contains(line), "no '{line}' in\n{told}");
    }
}
