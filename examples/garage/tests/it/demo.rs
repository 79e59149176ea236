//! The demo, as a new user runs it.

use std::process::Command;

/// Every course ends as it should, and the timelines are shown.
#[test]
fn plays_every_course() {
    let output = Command::new(env!("CARGO_BIN_EXE_garage"))
        .arg("demo")
        .output()
        .expect("runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    for line in [
        "== all goes well",
        "== the payment is rejected",
        "== the customer rejects the quote",
        "== cancelled before it is paid",
        "== cancelled when it is paid",
        "== the repair fails",
        "execution.completed",
        "payment.refunded",
        "2 refunds; charged twice: [], refunded twice: []",
        "all as it should be",
    ] {
        assert!(told.contains(line), "no '{line}' in\n{told}");
    }
}

/// The bench, at its smallest.
#[test]
fn measures_sagas() {
    let output = Command::new(env!("CARGO_BIN_EXE_garage"))
        .args([
            "bench",
            "--work-orders",
            "5",
            "--concurrency",
            "2",
            "--json",
        ])
        .output()
        .expect("runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["sagas_per_s"].as_f64().expect("a rate") > 0.0);
}
