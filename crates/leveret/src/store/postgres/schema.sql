-- Keys compare byte by byte, as in the program, whatever the database's collation. JSON is text: it comes back as it was, and jsonb refuses
-- the escape of U+0000. There are no foreign keys: they would lock the run's row for each of its steps.

CREATE TABLE definitions (
    hash bytea PRIMARY KEY,
    workflow_id text COLLATE "C" NOT NULL,
    definition text NOT NULL
);

CREATE TABLE workflows (
    workflow_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    hash bytea NOT NULL,
    created_at_ms bigint NOT NULL,
    PRIMARY KEY (workflow_id, version)
);

CREATE TABLE runs (
    run_id text COLLATE "C" PRIMARY KEY,
    workflow_id text COLLATE "C" NOT NULL,
    workflow_hash bytea NOT NULL,
    status text COLLATE "C" NOT NULL,
    input text NOT NULL,
    error text,
    created_at_ms bigint NOT NULL,
    ended_at_ms bigint,
    reconcile_at_ms bigint NOT NULL
);

-- Serves the runs of all workflows, too: each run costs an index less, and a list looks into it once for each workflow.
CREATE INDEX runs_by_workflow ON runs (workflow_id, created_at_ms, run_id);
-- Running runs have no end. The condition is not on the status: on a young table the planner would take this index, whole, to look for
-- a running run by its id.
CREATE INDEX runs_to_reconcile ON runs (reconcile_at_ms) WHERE ended_at_ms IS NULL;
CREATE INDEX runs_not_well ON runs (status, created_at_ms, run_id) WHERE status IN ('failed', 'cancelled');

CREATE TABLE steps (
    run_id text COLLATE "C" NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    attempts bigint NOT NULL,
    via bigint NOT NULL,
    started_at_ms bigint NOT NULL,
    finished_at_ms bigint NOT NULL,
    action text,
    output text,
    error text,
    PRIMARY KEY (run_id, node_id, scope)
);

-- Updated once for each edge: room in the page keeps the updates off the index.
CREATE TABLE joins (
    run_id text COLLATE "C" NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    state text NOT NULL,
    PRIMARY KEY (run_id, node_id)
) WITH (fillfactor = 60);

CREATE TABLE context (
    run_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (run_id, key)
);

-- A queue: every row is deleted soon, so its dead rows are cleared early.
CREATE TABLE timers (
    run_id text COLLATE "C" NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    due_at_ms bigint NOT NULL,
    attempts bigint NOT NULL,
    via bigint NOT NULL,
    PRIMARY KEY (run_id, node_id, scope)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

CREATE INDEX timers_by_due ON timers (due_at_ms);

CREATE TABLE redeliveries (
    run_id text COLLATE "C" NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (run_id, node_id, scope)
);
