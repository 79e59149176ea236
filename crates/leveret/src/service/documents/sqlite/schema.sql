CREATE TABLE documents (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at_ms INTEGER,
    state TEXT,
    fields TEXT,
    UNIQUE (kind, id)
);

-- A row for each field of a document with a state, and one for no field.
CREATE TABLE listed (
    kind TEXT NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (kind, field, value, created_at_ms, id)
) WITHOUT ROWID;

-- Entries are in the order of time.
CREATE TABLE inbox (
    entry INTEGER PRIMARY KEY,
    consumer TEXT NOT NULL,
    message_id TEXT NOT NULL,
    handled_at_ms INTEGER NOT NULL,
    UNIQUE (consumer, message_id)
);

-- A number is never used again: it is what a message is known by.
CREATE TABLE outgoing (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    must_route INTEGER NOT NULL,
    copied INTEGER NOT NULL,
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    properties TEXT,
    body BLOB NOT NULL
);

CREATE TABLE deadlines (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, id, name)
) WITHOUT ROWID;

CREATE INDEX deadlines_by_time ON deadlines (at_ms);

CREATE TABLE parked (
    entry INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    consumer TEXT NOT NULL,
    message_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    queue TEXT NOT NULL,
    properties TEXT,
    body BLOB NOT NULL,
    UNIQUE (kind, id, consumer, message_id)
);
