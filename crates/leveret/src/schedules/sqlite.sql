CREATE TABLE schedules (
    schedule_id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    look_at_ms INTEGER NOT NULL,
    schedule TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX schedules_look_at ON schedules (look_at_ms);
CREATE TABLE firings (
    schedule_id TEXT NOT NULL REFERENCES schedules ON DELETE CASCADE,
    number INTEGER NOT NULL,
    firing TEXT NOT NULL,
    PRIMARY KEY (schedule_id, number)
) STRICT, WITHOUT ROWID;
