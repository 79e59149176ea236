-- Runs whose first jobs are to be published, which may have ended by now. Queries name the number as it stands here.
CREATE INDEX runs_unbegun ON runs (run_id) WHERE reconcile_at_ms = -1;
