-- The heart's log, for several hearts of which one is active.

-- One row, which every append locks. `base_*` is the position before the oldest write that is kept; `until` ends the lease of `owner`, by the
-- clock of the database; `bytes` is the size of the writes, about.
CREATE TABLE broadcast_heart (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    cluster text NOT NULL,
    epoch bigint NOT NULL DEFAULT 0,
    owner text NOT NULL DEFAULT '',
    until timestamptz NOT NULL DEFAULT '-infinity',
    base_epoch bigint NOT NULL DEFAULT 0,
    base_seq bigint NOT NULL DEFAULT 0,
    last_epoch bigint NOT NULL DEFAULT 0,
    last_seq bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0
);

CREATE TABLE broadcast_log (
    seq bigint PRIMARY KEY,
    epoch bigint NOT NULL,
    at bigint NOT NULL,
    seed bigint NOT NULL,
    statements text NOT NULL
);

-- Clients' keys. `outcome` is null until it is known.
CREATE TABLE broadcast_keys (
    name text PRIMARY KEY,
    digest bytea NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    at bigint NOT NULL,
    outcome text
);
CREATE INDEX broadcast_keys_by_seq ON broadcast_keys (seq);
CREATE INDEX broadcast_keys_by_time ON broadcast_keys (at);

CREATE TABLE broadcast_facts (
    name text PRIMARY KEY,
    value text NOT NULL
);
