-- Where edges meet within loops, and the latest step of a node there.
CREATE TABLE joins_in_scopes (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (run_id, node_id, scope)
) WITHOUT ROWID;

INSERT INTO joins_in_scopes (run_id, node_id, scope, state) SELECT run_id, node_id, '', state FROM joins;
DROP TABLE joins;
ALTER TABLE joins_in_scopes RENAME TO joins;

CREATE TABLE latest (
    run_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    within TEXT NOT NULL,
    scope TEXT NOT NULL,
    PRIMARY KEY (run_id, node_id, within)
) WITHOUT ROWID;
