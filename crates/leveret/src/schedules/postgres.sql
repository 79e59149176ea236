CREATE TABLE schedules (
    schedule_id text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    look_at_ms bigint NOT NULL,
    schedule text NOT NULL
);
CREATE INDEX schedules_look_at ON schedules (look_at_ms);
CREATE TABLE firings (
    schedule_id text COLLATE "C" NOT NULL REFERENCES schedules ON DELETE CASCADE,
    number bigint NOT NULL,
    firing text NOT NULL,
    PRIMARY KEY (schedule_id, number)
);
