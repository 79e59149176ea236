-- Where edges meet within loops, and the latest step of a node there.
ALTER TABLE joins ADD COLUMN scope text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE joins DROP CONSTRAINT joins_pkey;
ALTER TABLE joins ADD PRIMARY KEY (run_id, node_id, scope);

CREATE TABLE latest (
    run_id text COLLATE "C" NOT NULL,
    node_id text COLLATE "C" NOT NULL,
    within text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    PRIMARY KEY (run_id, node_id, within)
) WITH (fillfactor = 60);
