-- What steps wait for besides a time. A wait without a signal is open; the lowest number began to wait first.
CREATE TABLE waits (
    wait_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text COLLATE "C" NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    event text COLLATE "C" NOT NULL,
    key text COLLATE "C",
    kind text COLLATE "C" NOT NULL,
    about text NOT NULL,
    attempts bigint NOT NULL,
    via bigint NOT NULL,
    since_ms bigint NOT NULL,
    until_ms bigint,
    signal_no bigint,
    UNIQUE (run_id, node_id, scope)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

CREATE INDEX waits_open ON waits (run_id, event, wait_no) WHERE signal_no IS NULL;
CREATE INDEX waits_open_by_key ON waits (event, key, run_id, wait_no) WHERE signal_no IS NULL AND key IS NOT NULL;
CREATE INDEX waits_open_by_kind ON waits (kind, wait_no) WHERE signal_no IS NULL AND kind <> 'signal';
CREATE INDEX waits_ended ON waits (signal_no) WHERE signal_no IS NOT NULL;

-- Signals that came: to a run, or by a key to whom it may concern, and then without a run. They stay as long as the run, so that a copy is known.
CREATE TABLE signals (
    signal_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    event text COLLATE "C" NOT NULL,
    signal_id text COLLATE "C",
    data text NOT NULL,
    received_at_ms bigint NOT NULL,
    kept boolean NOT NULL
);

CREATE UNIQUE INDEX signals_by_id ON signals (run_id, key, event, signal_id);
CREATE INDEX signals_kept ON signals (run_id, key, event, signal_no) WHERE kept;
CREATE INDEX signals_by_key ON signals (received_at_ms) WHERE run_id = '';
