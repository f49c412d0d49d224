-- What a connection brings with it: rows as JSON arrays, in the field order of the records in model.py (a test compares).
--
-- apsw gives up the GIL at every step of a statement, and a step brings one row: beside a busy Python thread each row
-- would cost up to 5 ms. So every read is one row: a JSON array of JSON arrays.

CREATE TEMP VIEW job_json AS SELECT jobs.*, json_array(
  job_id, kind, version, state, status_reason, queue, priority, ready_at, claimable, begun, attempt, run_id, on_stall,
  max_stalls, stalls, stalled_at_checkpoint, probation, held_by, cancel_code, cancel_reason, cancel_by, deadline_at,
  idempotency_key, partition_key, inputs, inputs_hash, outputs, error, issues, tags, trace_id, parent_job_id,
  parent_step_key, detached, progress, protocol_id, profile_id, capability_profile_id, access_mode, safety_mode,
  entity_refs, planned_operations, metrics, task_schema_version, created_at, updated_at, completed_at, accepting) AS row
  FROM jobs;

-- For lists: the same without inputs and outputs.
CREATE TEMP VIEW job_head_json AS SELECT jobs.*, json_array(
  job_id, kind, version, state, status_reason, queue, priority, ready_at, claimable, begun, attempt, run_id, on_stall,
  max_stalls, stalls, stalled_at_checkpoint, probation, held_by, cancel_code, cancel_reason, cancel_by, deadline_at,
  idempotency_key, partition_key, NULL, inputs_hash, NULL, error, issues, tags, trace_id, parent_job_id,
  parent_step_key, detached, progress, protocol_id, profile_id, capability_profile_id, access_mode, safety_mode,
  entity_refs, planned_operations, metrics, task_schema_version, created_at, updated_at, completed_at, accepting) AS row
  FROM jobs;

CREATE TEMP VIEW run_json AS SELECT runs.*, json_array(
  run_id, job_id, engine_id, attempt, state, reason, started_at, ended_at) AS row FROM runs;

CREATE TEMP VIEW step_json AS SELECT steps.*, json_array(
  job_id, step_key, run_id, kind, name, state, try_number, policy, args_hashes, inputs, outcome, error, until, waits_for,
  code_ref, note, begun_at, ended_at, beat_at, heartbeat_ms) AS row FROM steps;

CREATE TEMP VIEW engine_json AS SELECT engines.*, json_array(
  engines.engine_id, role, name, state, gate, gate_detail, nonce, host_id, boot_id, pid, version, lease_ms,
  beats.lease_until, beats.beat_at, started_at, gate_opened_at, ended_at, verdict, evidence, batch_seq, head_seq,
  head_hash, kinds, queues) AS row FROM engines JOIN beats ON beats.engine_id = engines.engine_id;

CREATE TEMP VIEW signal_json AS SELECT signals.*, json_array(
  seq, signal_id, job_id, name, payload, by, sent_at, read_by) AS row FROM signals;

CREATE TEMP VIEW decision_json AS SELECT decisions.*, json_array(
  decision_id, job_id, step_key, question, options, preview, preview_hash, asked_at, expires_at, state, choice, by, note,
  value, decided_at) AS row FROM decisions;

CREATE TEMP VIEW token_json AS SELECT tokens.*, json_array(
  token, job_id, step_key, name, type, created_at, expires_at, heartbeat_ms, beat_at, note, state, value, error, by,
  ended_at) AS row FROM tokens;

CREATE TEMP VIEW quarantine_json AS SELECT quarantine.*, json_array(
  job_id, table_name, code, detail, recovery_id, quarantined_at, released_at) AS row FROM quarantine;

CREATE TEMP VIEW recovery_json AS SELECT recoveries.*, json_array(
  recovery_id, engine_id, engines, scanned, stalled, in_doubt, quarantined, started_at, duration_ms) AS row FROM recoveries;

CREATE TEMP VIEW queue_json AS SELECT queues.*, json_array(
  queue, slots, per_engine_slots, priority, rate, paused, updated_at, defined_by, defined_at, previous, override, override_by,
  revision) AS row FROM queues;

CREATE TEMP VIEW event_json AS SELECT events.*, json_array(
  seq, event_id, type, ts, actor, actor_id, trace_id, job_id, run_id, step_key, model_id, engine_id, payload, writer_id,
  writer_seq, prev_hash, hash) AS row FROM events;
