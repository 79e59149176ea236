//! `heart.yaml` and `node.yaml` with mistakes: `FILE:LINE: …`, exit code 2.

use crate::support::{Directory, leveret};

#[test]
fn mistakes_name_their_line() {
    let directory = Directory::new();
    let check = |command: &str, text: &str, expect: &str| {
        let file = directory.file("given.yaml", text);
        let ended = leveret(&[command, "--config", &file]);
        assert_eq!(ended.code, Some(2), "{text}: {ended:?}");
        assert!(ended.stderr.contains(expect), "{text}: {ended:?}");
        assert!(!ended.stderr.contains("hush"), "{ended:?}");
    };
    check(
        "heart",
        "broker: amqp://h\nbrokr: amqp://u:hush@h",
        "given.yaml:2: unknown setting 'brokr': did you mean 'broker'?",
    );
    check("heart", "listen: [", "given.yaml:2: ");
    check(
        "heart",
        "\nlisten: 127.0.0.1:0",
        "given.yaml:1: 'broker' is missing",
    );
    check(
        "heart",
        "broker: amqp://h\nlisten: nowhere",
        "given.yaml:2: listen 'nowhere'",
    );
    check(
        "heart",
        "broker: amqp://h\nlisten: 127.0.0.1:70900",
        "given.yaml:2: listen '127.0.0.1:70900'",
    );
    check(
        "heart",
        "\nbroker: http://u:hush@h",
        "given.yaml:2: broker URL: 'http:' is no kind of broker",
    );
    check(
        "heart",
        "\nbroker: amqp://u:hush@h:port",
        "given.yaml:2: broker URL: ",
    );
    check(
        "heart",
        "exchange: amq.fanout\nbroker: amqp://h",
        "given.yaml:1: exchange: names that begin with 'amq.'",
    );
    check(
        "heart",
        "broker: amqp://h\napi_tokens: hush",
        "given.yaml:2: api_tokens: ",
    );
    check(
        "heart",
        "broker: amqp://h\ntoken: hush hush",
        "given.yaml:2: token: ",
    );
    check(
        "node",
        "node_id: 1\nheart: [http://h, ftp://u:hush@h]",
        "given.yaml:2: 'ftp://u:***@h' is no URL of a heart or node",
    );
    check(
        "node",
        "node_id: 1\nadvertise: h:7091",
        "given.yaml:2: 'h:7091' is no URL of a heart or node",
    );
    check(
        "node",
        "\ndatabase: 'sqlite::memory:'",
        "given.yaml:2: database 'sqlite::memory:': say sqlite:node.db",
    );
    check(
        "heart",
        "broker: amqp://h\nwrite_log: mysql://u:hush@h/d",
        "given.yaml:2: write_log 'mysql://u:***@h/d': say sqlite:heart.db or postgres://",
    );
    check(
        "heart",
        "broker: amqp://h\nlog_bytes_max: much",
        "given.yaml:2: 'log_bytes_max': 'much' is no size",
    );
    check(
        "heart",
        "broker: amqp://h\nqueue_messages_max: 0",
        "given.yaml:2: 'queue_messages_max': '0' is no number of messages",
    );
    check(
        "node",
        "node_id: 1\nnode_id: 2",
        "given.yaml:2: the key `node_id` comes twice",
    );
    check(
        "node",
        "broker: amqp://h\nnode_id: a b",
        "given.yaml:2: node_id 'a b'",
    );
    check(
        "node",
        "node_id: 1\nseed: maybe",
        "given.yaml:2: 'seed' must be true or false",
    );
    check(
        "node",
        "node_id: 1\nqueue-name: x",
        "given.yaml:2: unknown setting 'queue-name': did you mean 'queue_name'?",
    );
}

/// The files under examples/ are without mistakes: what is wrong is only that nobody listens.
#[test]
fn the_examples_are_read() {
    let ended = leveret(&[
        "node",
        "--config",
        "examples/broadcast/node.yaml",
        "--node-id",
        "a b",
    ]);
    assert!(ended.stderr.contains("node_id 'a b'"), "{ended:?}");
    let ended = leveret(&[
        "heart",
        "--config",
        "examples/broadcast/heart.yaml",
        "--write-log",
        "none",
    ]);
    assert!(ended.stderr.contains("write_log 'none'"), "{ended:?}");
}
