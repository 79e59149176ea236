CREATE TABLE definitions (
    hash BLOB PRIMARY KEY,
    workflow_id TEXT NOT NULL,
    definition TEXT NOT NULL
);

CREATE TABLE workflows (
    workflow_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    hash BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (workflow_id, version)
) WITHOUT ROWID;

CREATE TABLE runs (
    run_no INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    workflow_id TEXT NOT NULL,
    workflow_hash BLOB NOT NULL,
    status TEXT NOT NULL,
    error TEXT,
    created_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER,
    reconcile_at_ms INTEGER NOT NULL,
    input TEXT,
    input_text_id INTEGER
);

-- Serves the runs of all workflows, too: each run costs an index less, and a list looks into it once for each workflow.
CREATE INDEX runs_by_workflow ON runs (workflow_id, created_at_ms, run_id);
CREATE INDEX runs_to_reconcile ON runs (reconcile_at_ms) WHERE status = 'running';
CREATE INDEX runs_not_well ON runs (status, created_at_ms, run_id) WHERE status IN ('failed', 'cancelled');

-- Where in loops and batches a step is, if not in the root scope.
CREATE TABLE scopes (
    scope_no INTEGER PRIMARY KEY,
    run_no INTEGER NOT NULL,
    scope TEXT NOT NULL,
    UNIQUE (run_no, scope)
);

-- A step's number is made of, from the highest bit down: the number of its run, or of its scope; one bit, which is set if it is that of a scope;
-- 20 bits with the place of its node in the definition. So steps of a run lie together, a lookup compares integers, and what is recorded is mostly
-- appended to the table, which costs one page: in the order of a text SQLite moves rows between four pages for every third step.
CREATE TABLE steps (
    step_no INTEGER PRIMARY KEY CHECK (step_no >= 0),
    node_id TEXT NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    via INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER NOT NULL,
    action TEXT,
    error TEXT,
    output TEXT,
    output_text_id INTEGER
);

-- Long texts. They are not in the rows that name them: SQLite reads whole rows to compare keys.
CREATE TABLE texts (
    text_id INTEGER PRIMARY KEY,
    text TEXT NOT NULL
);

CREATE TABLE joins (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (run_id, node_id)
) WITHOUT ROWID;

CREATE TABLE context (
    run_id TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run_id, key)
) WITHOUT ROWID;

CREATE TABLE timers (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    due_at_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    via INTEGER NOT NULL,
    PRIMARY KEY (run_id, node_id, scope)
) WITHOUT ROWID;

CREATE INDEX timers_by_due ON timers (due_at_ms);

CREATE TABLE redeliveries (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (run_id, node_id, scope)
) WITHOUT ROWID;
