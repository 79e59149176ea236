-- What steps wait for besides a time. A wait without a signal is open; the lowest number began to wait first.
CREATE TABLE waits (
    wait_no INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    event TEXT NOT NULL,
    key TEXT,
    kind TEXT NOT NULL,
    about TEXT,
    attempts INTEGER NOT NULL,
    via INTEGER NOT NULL,
    since_ms INTEGER NOT NULL,
    until_ms INTEGER,
    signal_no INTEGER,
    UNIQUE (run_id, node_id, scope)
);

CREATE INDEX waits_open ON waits (run_id, event, wait_no) WHERE signal_no IS NULL;
CREATE INDEX waits_open_by_key ON waits (event, key, run_id, wait_no) WHERE signal_no IS NULL AND key IS NOT NULL;
CREATE INDEX waits_open_by_kind ON waits (kind, wait_no) WHERE signal_no IS NULL AND kind <> 'signal';

-- Signals that came: to a run, or by a key to whom it may concern, and then without a run. They stay as long as the run, so that a copy is known.
CREATE TABLE signals (
    signal_no INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    key TEXT NOT NULL,
    event TEXT NOT NULL,
    signal_id TEXT,
    data TEXT,
    received_at_ms INTEGER NOT NULL,
    kept INTEGER NOT NULL
);

CREATE UNIQUE INDEX signals_by_id ON signals (run_id, key, event, signal_id);
CREATE INDEX signals_kept ON signals (run_id, key, event, signal_no) WHERE kept;
CREATE INDEX signals_by_key ON signals (received_at_ms) WHERE run_id = '';
CREATE INDEX waits_ended ON waits (signal_no) WHERE signal_no IS NOT NULL;
