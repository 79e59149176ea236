-- The heart's log.

-- One row. `base_*` is the position before the oldest write that is kept; `until` ends the lease of `owner`.
CREATE TABLE broadcast_heart (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    cluster TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    owner TEXT NOT NULL,
    until INTEGER NOT NULL,
    base_epoch INTEGER NOT NULL,
    base_seq INTEGER NOT NULL
);

CREATE TABLE broadcast_log (
    seq INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    at INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    statements TEXT NOT NULL
);

-- Clients' keys. `outcome` is null until it is known.
CREATE TABLE broadcast_keys (
    name TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    outcome TEXT
) WITHOUT ROWID;
CREATE INDEX broadcast_keys_by_seq ON broadcast_keys (seq);
CREATE INDEX broadcast_keys_by_time ON broadcast_keys (at);

CREATE TABLE broadcast_facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
