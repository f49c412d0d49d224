-- What passes between a job and the outside world: tokens that somebody else completes, and signs of life of steps.

-- Nothing was ever written to the kernel's tokens. Now a row holds the whole story of one: what was handed out until when,
-- the last word of whoever works on it, and the one answer that counts. Its type is how its value is checked at delivery.
DROP TABLE tokens;
CREATE TABLE tokens (
  token        TEXT PRIMARY KEY,
  job_id       TEXT NOT NULL REFERENCES jobs,
  step_key     TEXT NOT NULL,
  name         TEXT NOT NULL,
  type         TEXT,
  created_at   INTEGER NOT NULL,
  expires_at   INTEGER,
  heartbeat_ms INTEGER,
  beat_at      INTEGER NOT NULL,
  note         TEXT,
  state        TEXT NOT NULL DEFAULT 'open',
  value        TEXT,
  error        TEXT,
  by           TEXT,
  ended_at     INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_job ON tokens (job_id);

-- When a step last gave a sign of life, and how long it said that it may be silent.
ALTER TABLE steps ADD COLUMN beat_at INTEGER;
ALTER TABLE steps ADD COLUMN heartbeat_ms INTEGER;
