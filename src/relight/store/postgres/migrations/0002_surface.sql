-- What passes between a job and the outside world: tokens that somebody else completes, and signs of life of steps.

-- Nothing was ever written to the kernel's tokens. Now a row holds the whole story of one: what was handed out until when,
-- the last word of whoever works on it, and the one answer that counts. Its type is how its value is checked at delivery.
DROP TABLE relight.tokens;
CREATE TABLE relight.tokens (
  token        text COLLATE "C" PRIMARY KEY,
  job_id       text COLLATE "C" NOT NULL REFERENCES relight.jobs,
  step_key     text COLLATE "C" NOT NULL,
  name         text COLLATE "C" NOT NULL,
  type         text COLLATE "C",
  created_at   bigint NOT NULL,
  expires_at   bigint,
  heartbeat_ms bigint,
  beat_at      bigint NOT NULL,
  note         text,
  state        text COLLATE "C" NOT NULL DEFAULT 'open',
  value        text,
  error        text,
  by           text,
  ended_at     bigint
);
CREATE INDEX tokens_by_job ON relight.tokens (job_id);

-- When a step last gave a sign of life, and how long it said that it may be silent.
ALTER TABLE relight.steps ADD COLUMN beat_at bigint;
ALTER TABLE relight.steps ADD COLUMN heartbeat_ms bigint;
