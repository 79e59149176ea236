//! Another node at the address of one that is gone.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    load::{post, write},
    rig::{Cluster, as_strs, client, free_url, shared_broker},
};
use crate::support::Server;

fn start(cluster: &mut Cluster, node: u32, listen: &str) {
    let mut args = cluster.node_args(node, &cluster.file(node));
    args.extend(["--listen", listen].map(str::to_owned));
    cluster.add(node, Server::start(&as_strs(&args)));
}

/// While a node still counts as reachable, what another one answers at its address is not taken for its answer.
#[tokio::test(flavor = "multi_thread")]
async fn another_node_is_not_read_in_the_place_of_one() {
    let Some(amqp) = shared_broker() else { return };
    let mut cluster = Cluster::new(amqp);
    cluster.start_heart();
    let address = free_url();
    let address = address.trim_start_matches("http://");
    start(&mut cluster, 1, address);
    cluster.until_settled(1).await;
    let http = client();
    let create = json!({ "sql": "CREATE TABLE t (x)" });
    write(&http, &cluster.heart_url, "create", &create).await;
    cluster.kill_node(1);
    start(&mut cluster, 2, address);
    cluster
        .until("node 2 is live", |status| {
            status["nodes"][1]["state"] == "live"
        })
        .await;
    let status = cluster.status().await.expect("the heart answers");
    let told: Vec<&Value> = vec![
        &status["nodes"][0]["advertise"],
        &status["nodes"][1]["advertise"],
    ];
    assert_eq!(told[0], told[1], "both were there: {status}");
    for _ in 0..8 {
        let question = json!({ "sql": "SELECT * FROM t" });
        let asked = post(&http, &cluster.heart_url, "read", None, &question).await;
        let (code, answer) = asked.expect("the heart answers");
        assert_eq!(code, StatusCode::OK, "{answer}");
        assert_eq!(answer["node_id"], "2", "{answer}");
    }
    let verified = cluster.operator(&["verify"]);
    assert_eq!(verified.code, Some(1), "{verified:?}");
    let nodes = verified.json()["nodes"].clone();
    assert_eq!(nodes[0]["digest"], Value::Null, "{nodes}");
    assert!(nodes[1]["digest"].is_string(), "{nodes}");
    // It comes back elsewhere.
    cluster.start_node(1);
    cluster.until_settled(2).await;
    cluster.assert_equal().await;
}
