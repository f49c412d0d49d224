-- The kernel: who writes, what was submitted, what happened, and the record of it.
-- Times are integers in milliseconds since 1970, UTC. Ids are UUIDv7 text. Payloads are canonical JSON as text.

CREATE TABLE relight.meta (
  key   text COLLATE "C" PRIMARY KEY,
  value text NOT NULL
);

-- A writer's fence, batch number and chain head are this one row: a writer whose row is not 'live' writes nothing.
CREATE TABLE relight.engines (
  engine_id      text COLLATE "C" PRIMARY KEY,
  role           text COLLATE "C" NOT NULL,
  name           text COLLATE "C" NOT NULL,
  state          text COLLATE "C" NOT NULL DEFAULT 'live',
  gate           text NOT NULL DEFAULT 'closed',
  gate_detail    text,
  nonce          text NOT NULL DEFAULT '',
  host_id        text NOT NULL DEFAULT '',
  boot_id        text NOT NULL DEFAULT '',
  pid            bigint NOT NULL DEFAULT 0,
  version        text COLLATE "C" NOT NULL DEFAULT '',
  lease_ms       bigint NOT NULL DEFAULT 30000,
  started_at     bigint NOT NULL,
  gate_opened_at bigint,
  ended_at       bigint,
  verdict        text,
  evidence       text,
  batch_seq      bigint NOT NULL DEFAULT 0,
  head_seq       bigint NOT NULL DEFAULT 0,
  head_hash      text NOT NULL DEFAULT '',
  named_seq      bigint NOT NULL DEFAULT 0,
  kinds          text NOT NULL DEFAULT '[]',
  queues         text,
  floor          bigint NOT NULL DEFAULT 0,
  -- An index on head_seq itself would be written anew by every batch.
  unnamed        boolean GENERATED ALWAYS AS (head_seq > named_seq) STORED
) WITH (fillfactor = 50);
CREATE INDEX engines_live ON relight.engines (state, role) WHERE state IN ('live', 'silent');
CREATE INDEX engines_unnamed ON relight.engines (engine_id) WHERE unnamed;

-- Beats have rows of their own: a heartbeat never touches a fence.
CREATE TABLE relight.beats (
  engine_id   text COLLATE "C" PRIMARY KEY REFERENCES relight.engines,
  beat_at     bigint NOT NULL,
  lease_until bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE relight.jobs (
  job_id               text COLLATE "C" PRIMARY KEY,
  kind                 text COLLATE "C" NOT NULL,
  version              text COLLATE "C",
  state                text COLLATE "C" NOT NULL,
  status_reason        text NOT NULL,
  queue                text COLLATE "C" NOT NULL,
  priority             bigint NOT NULL,
  ready_at             bigint,
  claimable            boolean NOT NULL,
  begun                boolean NOT NULL DEFAULT false,
  attempt              bigint NOT NULL DEFAULT 1,
  run_id               text COLLATE "C",
  on_stall             text NOT NULL DEFAULT 'resume',
  max_stalls           bigint NOT NULL DEFAULT 3,
  stalls               bigint NOT NULL DEFAULT 0,
  stalled_at_checkpoint bigint,
  probation            boolean NOT NULL DEFAULT false,
  held_by              text COLLATE "C",
  cancel_code          text,
  cancel_reason        text,
  cancel_by            text,
  deadline_at          bigint,
  idempotency_key      text COLLATE "C",
  partition_key        text COLLATE "C",
  inputs_hash          text NOT NULL,
  tags                 text,
  trace_id             text COLLATE "C" NOT NULL,
  parent_job_id        text COLLATE "C",
  parent_step_key      text COLLATE "C",
  detached             boolean NOT NULL DEFAULT false,
  progress             text,
  protocol_id          text NOT NULL DEFAULT 'relight',
  profile_id           text NOT NULL DEFAULT 'default',
  capability_profile_id text NOT NULL DEFAULT 'default',
  access_mode          text NOT NULL DEFAULT 'analysis_only',
  safety_mode          text NOT NULL DEFAULT 'normal',
  entity_refs          text NOT NULL DEFAULT '[]',
  planned_operations   text NOT NULL DEFAULT '[]',
  metrics              text NOT NULL,
  task_schema_version  bigint NOT NULL DEFAULT 1,
  created_at           bigint NOT NULL,
  updated_at           bigint NOT NULL,
  completed_at         bigint,
  error                text,
  issues               text,
  inputs               text NOT NULL,
  outputs              text
);
CREATE UNIQUE INDEX jobs_key ON relight.jobs (kind, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- The claim index holds only what may be claimed: sleepers and waiters are not in it.
CREATE INDEX jobs_claimable ON relight.jobs (queue, priority DESC, ready_at, job_id) WHERE claimable;
CREATE INDEX jobs_due ON relight.jobs (ready_at) WHERE NOT claimable AND ready_at IS NOT NULL;
CREATE INDEX jobs_deadline ON relight.jobs (deadline_at) WHERE deadline_at IS NOT NULL AND completed_at IS NULL;
CREATE INDEX jobs_running_in ON relight.jobs (queue) WHERE state = 'running';
CREATE INDEX jobs_by_state ON relight.jobs (state, job_id);
-- Lists page by id, newest first, also of one state or one kind.
CREATE INDEX jobs_by_kind ON relight.jobs (kind, job_id);
CREATE INDEX jobs_by_parent ON relight.jobs (parent_job_id) WHERE parent_job_id IS NOT NULL;

CREATE TABLE relight.runs (
  run_id     text COLLATE "C" PRIMARY KEY,
  job_id     text COLLATE "C" NOT NULL REFERENCES relight.jobs,
  engine_id  text COLLATE "C" NOT NULL REFERENCES relight.engines,
  attempt    bigint NOT NULL,
  state      text COLLATE "C" NOT NULL,
  reason     text,
  started_at bigint NOT NULL,
  ended_at   bigint
);
CREATE INDEX runs_by_job ON relight.runs (job_id);
CREATE INDEX runs_running ON relight.runs (engine_id, run_id) WHERE state = 'running';

-- Steps, durable waits and recorded values: one row for each key of a job, never overwritten once finished.
CREATE TABLE relight.steps (
  job_id      text COLLATE "C" NOT NULL REFERENCES relight.jobs,
  step_key    text COLLATE "C" NOT NULL,
  run_id      text COLLATE "C" NOT NULL,
  kind        text COLLATE "C" NOT NULL,
  name        text COLLATE "C" NOT NULL,
  state       text COLLATE "C" NOT NULL,
  try_number  bigint NOT NULL,
  policy      text NOT NULL,
  args_hashes text,
  inputs      text,
  outcome     text,
  error       text,
  until       bigint,
  waits_for   text COLLATE "C",
  code_ref    text,
  note        text,
  begun_at    bigint NOT NULL,
  ended_at    bigint,
  PRIMARY KEY (job_id, step_key)
);
CREATE INDEX steps_waiting ON relight.steps (waits_for, job_id) WHERE state = 'waiting' AND waits_for IS NOT NULL;

CREATE TABLE relight.signals (
  seq             bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
  signal_id       text COLLATE "C" NOT NULL,
  job_id          text COLLATE "C" NOT NULL REFERENCES relight.jobs,
  name            text COLLATE "C" NOT NULL,
  payload         text NOT NULL,
  by              text,
  idempotency_key text COLLATE "C",
  sent_at         bigint NOT NULL,
  read_by         text COLLATE "C"
);
CREATE UNIQUE INDEX signals_key ON relight.signals (job_id, name, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX signals_by_job ON relight.signals (job_id, name, seq);

CREATE TABLE relight.decisions (
  decision_id  text COLLATE "C" PRIMARY KEY,
  job_id       text COLLATE "C" NOT NULL REFERENCES relight.jobs,
  step_key     text COLLATE "C" NOT NULL,
  question     text NOT NULL,
  options      text NOT NULL,
  preview      text,
  preview_hash text,
  asked_at     bigint NOT NULL,
  expires_at   bigint,
  state        text COLLATE "C" NOT NULL DEFAULT 'open',
  choice       text,
  by           text,
  note         text,
  value        text,
  decided_at   bigint
);
CREATE INDEX decisions_by_job ON relight.decisions (job_id);

CREATE TABLE relight.recoveries (
  recovery_id text COLLATE "C" PRIMARY KEY,
  engine_id   text COLLATE "C" NOT NULL REFERENCES relight.engines,
  engines     text NOT NULL,
  scanned     bigint NOT NULL,
  stalled     bigint NOT NULL,
  in_doubt    bigint NOT NULL,
  quarantined bigint NOT NULL,
  started_at  bigint NOT NULL,
  duration_ms bigint NOT NULL
);

CREATE TABLE relight.quarantine (
  job_id         text COLLATE "C" PRIMARY KEY,
  table_name     text NOT NULL,
  code           text NOT NULL,
  detail         text NOT NULL,
  recovery_id    text COLLATE "C",
  quarantined_at bigint NOT NULL,
  released_at    bigint
);

CREATE TABLE relight.queues (
  queue            text COLLATE "C" PRIMARY KEY,
  slots            bigint,
  per_engine_slots bigint,
  priority         bigint NOT NULL DEFAULT 0,
  rate             text,
  paused           boolean NOT NULL DEFAULT false,
  updated_at       bigint NOT NULL
);

CREATE TABLE relight.blobs (
  blob_hash text COLLATE "C" PRIMARY KEY,
  size_bytes bigint NOT NULL,
  content   text NOT NULL,
  stored_at bigint NOT NULL
);

CREATE TABLE relight.kinds (
  kind          text COLLATE "C" NOT NULL,
  version       text COLLATE "C" NOT NULL DEFAULT '',
  registered_at bigint NOT NULL,
  PRIMARY KEY (kind, version)
);

-- External completions and published values: their rows belong to the kernel's shape, their verbs come later.
CREATE TABLE relight.tokens (
  token        text COLLATE "C" PRIMARY KEY,
  job_id       text COLLATE "C" NOT NULL REFERENCES relight.jobs,
  step_key     text COLLATE "C" NOT NULL,
  created_at   bigint NOT NULL,
  completed_at bigint
);

CREATE TABLE relight.published (
  job_id     text COLLATE "C" NOT NULL REFERENCES relight.jobs,
  name       text COLLATE "C" NOT NULL,
  value      text NOT NULL,
  updated_at bigint NOT NULL,
  PRIMARY KEY (job_id, name)
);

-- The flight recorder. Two secondary indexes, both on keys that grow.
--
-- A lower seq can be committed after a higher one: whoever follows the log reads up to settled_seq. `xid` is the transaction
-- that wrote an event, `floor` the last number given before that transaction had its xid.
CREATE TABLE relight.events (
  seq        bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
  event_id   text COLLATE "C" NOT NULL,
  type       text COLLATE "C" NOT NULL,
  ts         bigint NOT NULL,
  actor      text COLLATE "C" NOT NULL,
  actor_id   text NOT NULL,
  trace_id   text COLLATE "C" NOT NULL,
  job_id     text COLLATE "C",
  run_id     text COLLATE "C",
  step_key   text COLLATE "C",
  model_id   text,
  engine_id  text COLLATE "C",
  payload    text NOT NULL,
  writer_id  text COLLATE "C" NOT NULL,
  writer_seq bigint NOT NULL,
  prev_hash  text NOT NULL,
  hash       text NOT NULL,
  xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
  floor      bigint NOT NULL
);
CREATE UNIQUE INDEX events_by_writer ON relight.events (writer_id, writer_seq);
CREATE INDEX events_by_job ON relight.events (job_id, seq) WHERE job_id IS NOT NULL;

CREATE FUNCTION relight.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'append-only: events are never changed or deleted' USING ERRCODE = 'RL003';
END $$;
CREATE TRIGGER events_no_update BEFORE UPDATE ON relight.events
  FOR EACH STATEMENT EXECUTE FUNCTION relight.refuse_change();
CREATE TRIGGER events_no_delete BEFORE DELETE OR TRUNCATE ON relight.events
  FOR EACH STATEMENT EXECUTE FUNCTION relight.refuse_change();

-- Ends a batch whose precondition did not hold: RL001 for the fence, RL002 for an operation, which the detail names.
CREATE FUNCTION relight.must(held boolean, what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF held IS NOT TRUE THEN
    RAISE EXCEPTION 'relight: %', what
      USING ERRCODE = CASE what WHEN 'fenced' THEN 'RL001' ELSE 'RL002' END, DETAIL = what;
  END IF;
END $$;

-- Up to which number the log is complete for this snapshot: no event of a lower one will ever appear.
--
-- Numbers are given without gaps, so an unbroken row of visible ones is complete. A gap is a transaction in flight, or one
-- that ended without a commit. The second is certain for all numbers up to the `floor` of an event whose transaction is not
-- younger than the oldest in flight: they were given to transactions that are older still, and so have ended.
-- `after` has to be complete itself: a number that this function gave, or that of an event read up to it.
CREATE FUNCTION relight.settled_seq(after bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
  WITH base AS (
    SELECT greatest(after, 0, (SELECT e.floor FROM relight.events AS e
                                WHERE e.seq > after AND e.xid <= pg_snapshot_xmin(pg_current_snapshot())
                                ORDER BY e.seq DESC LIMIT 1)) AS seq)
  SELECT coalesce((SELECT max(line.seq)
                     FROM (SELECT e.seq, base.seq + row_number() OVER (ORDER BY e.seq) AS due
                             FROM relight.events AS e WHERE e.seq > base.seq) AS line
                    WHERE line.seq = line.due), base.seq)
    FROM base
$$;
