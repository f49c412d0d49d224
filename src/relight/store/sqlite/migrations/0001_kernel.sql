-- The kernel: who writes, what was submitted, what happened, and the record of it.
-- Times are integers in milliseconds since 1970, UTC. Ids are UUIDv7 text. Payloads are canonical JSON as text.

CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- A writer's fence, batch number and chain head are this one row: a writer whose row is not 'live' writes nothing.
CREATE TABLE engines (
  engine_id      TEXT PRIMARY KEY,
  role           TEXT NOT NULL,
  name           TEXT NOT NULL,
  state          TEXT NOT NULL DEFAULT 'live',
  gate           TEXT NOT NULL DEFAULT 'closed',
  gate_detail    TEXT,
  nonce          TEXT NOT NULL DEFAULT '',
  host_id        TEXT NOT NULL DEFAULT '',
  boot_id        TEXT NOT NULL DEFAULT '',
  pid            INTEGER NOT NULL DEFAULT 0,
  version        TEXT NOT NULL DEFAULT '',
  lease_ms       INTEGER NOT NULL DEFAULT 30000,
  started_at     INTEGER NOT NULL,
  gate_opened_at INTEGER,
  ended_at       INTEGER,
  verdict        TEXT,
  evidence       TEXT,
  batch_seq      INTEGER NOT NULL DEFAULT 0,
  head_seq       INTEGER NOT NULL DEFAULT 0,
  head_hash      TEXT NOT NULL DEFAULT '',
  named_seq      INTEGER NOT NULL DEFAULT 0,
  kinds          TEXT NOT NULL DEFAULT '[]',
  queues         TEXT
) STRICT;
CREATE INDEX engines_live ON engines (state, role) WHERE state IN ('live', 'silent');
CREATE INDEX engines_unnamed ON engines (engine_id) WHERE head_seq > named_seq;

-- Beats have rows of their own: a heartbeat never touches a fence.
CREATE TABLE beats (
  engine_id   TEXT PRIMARY KEY REFERENCES engines,
  beat_at     INTEGER NOT NULL,
  lease_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
  job_id               TEXT PRIMARY KEY,
  kind                 TEXT NOT NULL,
  version              TEXT,
  state                TEXT NOT NULL,
  status_reason        TEXT NOT NULL,
  queue                TEXT NOT NULL,
  priority             INTEGER NOT NULL,
  ready_at             INTEGER,
  claimable            INTEGER NOT NULL,
  begun                INTEGER NOT NULL DEFAULT 0,
  attempt              INTEGER NOT NULL DEFAULT 1,
  run_id               TEXT,
  on_stall             TEXT NOT NULL DEFAULT 'resume',
  max_stalls           INTEGER NOT NULL DEFAULT 3,
  stalls               INTEGER NOT NULL DEFAULT 0,
  stalled_at_checkpoint INTEGER,
  probation            INTEGER NOT NULL DEFAULT 0,
  held_by              TEXT,
  cancel_code          TEXT,
  cancel_reason        TEXT,
  cancel_by            TEXT,
  deadline_at          INTEGER,
  idempotency_key      TEXT,
  partition_key        TEXT,
  inputs_hash          TEXT NOT NULL,
  tags                 TEXT,
  trace_id             TEXT NOT NULL,
  parent_job_id        TEXT,
  parent_step_key      TEXT,
  detached             INTEGER NOT NULL DEFAULT 0,
  progress             TEXT,
  protocol_id          TEXT NOT NULL DEFAULT 'relight',
  profile_id           TEXT NOT NULL DEFAULT 'default',
  capability_profile_id TEXT NOT NULL DEFAULT 'default',
  access_mode          TEXT NOT NULL DEFAULT 'analysis_only',
  safety_mode          TEXT NOT NULL DEFAULT 'normal',
  entity_refs          TEXT NOT NULL DEFAULT '[]',
  planned_operations   TEXT NOT NULL DEFAULT '[]',
  metrics              TEXT NOT NULL,
  task_schema_version  INTEGER NOT NULL DEFAULT 1,
  created_at           INTEGER NOT NULL,
  updated_at           INTEGER NOT NULL,
  completed_at         INTEGER,
  error                TEXT,
  issues               TEXT,
  inputs               TEXT NOT NULL,
  outputs              TEXT
) STRICT;
CREATE UNIQUE INDEX jobs_key ON jobs (kind, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- The claim index holds only what may be claimed: sleepers and waiters are not in it.
CREATE INDEX jobs_claimable ON jobs (queue, priority DESC, ready_at, job_id) WHERE claimable = 1;
CREATE INDEX jobs_due ON jobs (ready_at) WHERE claimable = 0 AND ready_at IS NOT NULL;
CREATE INDEX jobs_deadline ON jobs (deadline_at) WHERE deadline_at IS NOT NULL AND completed_at IS NULL;
CREATE INDEX jobs_running_in ON jobs (queue) WHERE state = 'running';
CREATE INDEX jobs_by_state ON jobs (state, job_id);
-- Lists page by id, newest first, also of one state or one kind.
CREATE INDEX jobs_by_kind ON jobs (kind, job_id);
CREATE INDEX jobs_by_parent ON jobs (parent_job_id) WHERE parent_job_id IS NOT NULL;

CREATE TABLE runs (
  run_id     TEXT PRIMARY KEY,
  job_id     TEXT NOT NULL REFERENCES jobs,
  engine_id  TEXT NOT NULL REFERENCES engines,
  attempt    INTEGER NOT NULL,
  state      TEXT NOT NULL,
  reason     TEXT,
  started_at INTEGER NOT NULL,
  ended_at   INTEGER
) STRICT;
CREATE INDEX runs_by_job ON runs (job_id);
CREATE INDEX runs_running ON runs (engine_id, run_id) WHERE state = 'running';

-- Steps, durable waits and recorded values: one row for each key of a job, never overwritten once finished.
CREATE TABLE steps (
  job_id      TEXT NOT NULL REFERENCES jobs,
  step_key    TEXT NOT NULL,
  run_id      TEXT NOT NULL,
  kind        TEXT NOT NULL,
  name        TEXT NOT NULL,
  state       TEXT NOT NULL,
  try_number  INTEGER NOT NULL,
  policy      TEXT NOT NULL,
  args_hashes TEXT,
  inputs      TEXT,
  outcome     TEXT,
  error       TEXT,
  until       INTEGER,
  waits_for   TEXT,
  code_ref    TEXT,
  note        TEXT,
  begun_at    INTEGER NOT NULL,
  ended_at    INTEGER,
  PRIMARY KEY (job_id, step_key)
) STRICT;
CREATE INDEX steps_waiting ON steps (waits_for, job_id) WHERE state = 'waiting' AND waits_for IS NOT NULL;

CREATE TABLE signals (
  seq             INTEGER PRIMARY KEY,
  signal_id       TEXT NOT NULL,
  job_id          TEXT NOT NULL REFERENCES jobs,
  name            TEXT NOT NULL,
  payload         TEXT NOT NULL,
  by              TEXT,
  idempotency_key TEXT,
  sent_at         INTEGER NOT NULL,
  read_by         TEXT
) STRICT;
CREATE UNIQUE INDEX signals_key ON signals (job_id, name, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX signals_by_job ON signals (job_id, name, seq);

CREATE TABLE decisions (
  decision_id  TEXT PRIMARY KEY,
  job_id       TEXT NOT NULL REFERENCES jobs,
  step_key     TEXT NOT NULL,
  question     TEXT NOT NULL,
  options      TEXT NOT NULL,
  preview      TEXT,
  preview_hash TEXT,
  asked_at     INTEGER NOT NULL,
  expires_at   INTEGER,
  state        TEXT NOT NULL DEFAULT 'open',
  choice       TEXT,
  by           TEXT,
  note         TEXT,
  value        TEXT,
  decided_at   INTEGER
) STRICT;
CREATE INDEX decisions_by_job ON decisions (job_id);

CREATE TABLE recoveries (
  recovery_id TEXT PRIMARY KEY,
  engine_id   TEXT NOT NULL REFERENCES engines,
  engines     TEXT NOT NULL,
  scanned     INTEGER NOT NULL,
  stalled     INTEGER NOT NULL,
  in_doubt    INTEGER NOT NULL,
  quarantined INTEGER NOT NULL,
  started_at  INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE quarantine (
  job_id         TEXT PRIMARY KEY,
  table_name     TEXT NOT NULL,
  code           TEXT NOT NULL,
  detail         TEXT NOT NULL,
  recovery_id    TEXT,
  quarantined_at INTEGER NOT NULL,
  released_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE queues (
  queue            TEXT PRIMARY KEY,
  slots            INTEGER,
  per_engine_slots INTEGER,
  priority         INTEGER NOT NULL DEFAULT 0,
  rate             TEXT,
  paused           INTEGER NOT NULL DEFAULT 0,
  updated_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
  blob_hash TEXT PRIMARY KEY,
  size_bytes INTEGER NOT NULL,
  content   TEXT NOT NULL,
  stored_at INTEGER NOT NULL
) STRICT;

CREATE TABLE kinds (
  kind          TEXT NOT NULL,
  version       TEXT NOT NULL DEFAULT '',
  registered_at INTEGER NOT NULL,
  PRIMARY KEY (kind, version)
) STRICT, WITHOUT ROWID;

-- External completions and published values: their rows belong to the kernel's shape, their verbs come later.
CREATE TABLE tokens (
  token        TEXT PRIMARY KEY,
  job_id       TEXT NOT NULL REFERENCES jobs,
  step_key     TEXT NOT NULL,
  created_at   INTEGER NOT NULL,
  completed_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE published (
  job_id     TEXT NOT NULL REFERENCES jobs,
  name       TEXT NOT NULL,
  value      TEXT NOT NULL,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (job_id, name)
) STRICT, WITHOUT ROWID;

-- The flight recorder. Two secondary indexes, both on keys that grow.
CREATE TABLE events (
  seq        INTEGER PRIMARY KEY,
  event_id   TEXT NOT NULL,
  type       TEXT NOT NULL,
  ts         INTEGER NOT NULL,
  actor      TEXT NOT NULL,
  actor_id   TEXT NOT NULL,
  trace_id   TEXT NOT NULL,
  job_id     TEXT,
  run_id     TEXT,
  step_key   TEXT,
  model_id   TEXT,
  engine_id  TEXT,
  payload    TEXT NOT NULL,
  writer_id  TEXT NOT NULL,
  writer_seq INTEGER NOT NULL,
  prev_hash  TEXT NOT NULL,
  hash       TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_by_writer ON events (writer_id, writer_seq);
CREATE INDEX events_by_job ON events (job_id, seq) WHERE job_id IS NOT NULL;

CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN
  SELECT RAISE(ABORT, 'append-only: events are never changed');
END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN
  SELECT RAISE(ABORT, 'append-only: events are never deleted');
END;
