-- Selects that named queries read from as if they were views: all columns of a table, and `row`, the JSON array of a row in
-- the field order of the records in model.py (a test compares). They are put in as text: a view would freeze the columns
-- that its table had, and a temporary view would not live through a pooler.

-- name: job_json
SELECT jobs.*, json_build_array(
  job_id, kind, version, state, status_reason, queue, priority, ready_at, claimable, begun, attempt, run_id, on_stall,
  max_stalls, stalls, stalled_at_checkpoint, probation, held_by, cancel_code, cancel_reason, cancel_by, deadline_at,
  idempotency_key, partition_key, inputs, inputs_hash, outputs, error, issues, tags, trace_id, parent_job_id,
  parent_step_key, detached, progress, protocol_id, profile_id, capability_profile_id, access_mode, safety_mode,
  entity_refs, planned_operations, metrics, task_schema_version, created_at, updated_at, completed_at, accepting) AS row
  FROM relight.jobs;

-- name: job_head_json
-- For lists: the same without inputs and outputs.
SELECT jobs.*, json_build_array(
  job_id, kind, version, state, status_reason, queue, priority, ready_at, claimable, begun, attempt, run_id, on_stall,
  max_stalls, stalls, stalled_at_checkpoint, probation, held_by, cancel_code, cancel_reason, cancel_by, deadline_at,
  idempotency_key, partition_key, NULL, inputs_hash, NULL, error, issues, tags, trace_id, parent_job_id,
  parent_step_key, detached, progress, protocol_id, profile_id, capability_profile_id, access_mode, safety_mode,
  entity_refs, planned_operations, metrics, task_schema_version, created_at, updated_at, completed_at, accepting) AS row
  FROM relight.jobs;

-- name: run_json
SELECT runs.*, json_build_array(
  run_id, job_id, engine_id, attempt, state, reason, started_at, ended_at) AS row FROM relight.runs;

-- name: step_json
SELECT steps.*, json_build_array(
  job_id, step_key, run_id, kind, name, state, try_number, policy, args_hashes, inputs, outcome, error, until, waits_for,
  code_ref, note, begun_at, ended_at, beat_at, heartbeat_ms) AS row FROM relight.steps;

-- name: engine_json
SELECT engines.*, json_build_array(
  engines.engine_id, role, name, state, gate, gate_detail, nonce, host_id, boot_id, pid, version, lease_ms,
  beats.lease_until, beats.beat_at, started_at, gate_opened_at, ended_at, verdict, evidence, batch_seq, head_seq,
  head_hash, kinds, queues) AS row FROM relight.engines JOIN relight.beats ON beats.engine_id = engines.engine_id;

-- name: signal_json
SELECT signals.*, json_build_array(
  seq, signal_id, job_id, name, payload, by, sent_at, read_by) AS row FROM relight.signals;

-- name: decision_json
SELECT decisions.*, json_build_array(
  decision_id, job_id, step_key, question, options, preview, preview_hash, asked_at, expires_at, state, choice, by, note,
  value, decided_at) AS row FROM relight.decisions;

-- name: token_json
SELECT tokens.*, json_build_array(
  token, job_id, step_key, name, type, created_at, expires_at, heartbeat_ms, beat_at, note, state, value, error, by,
  ended_at) AS row FROM relight.tokens;

-- name: quarantine_json
SELECT quarantine.*, json_build_array(
  job_id, table_name, code, detail, recovery_id, quarantined_at, released_at) AS row FROM relight.quarantine;

-- name: recovery_json
SELECT recoveries.*, json_build_array(
  recovery_id, engine_id, engines, scanned, stalled, in_doubt, quarantined, started_at, duration_ms) AS row FROM relight.recoveries;

-- name: queue_json
SELECT queues.*, json_build_array(
  queue, slots, per_engine_slots, priority, rate, paused, updated_at, defined_by, defined_at, previous, override, override_by,
  revision) AS row FROM relight.queues;

-- name: event_json
SELECT events.*, json_build_array(
  seq, event_id, type, ts, actor, actor_id, trace_id, job_id, run_id, step_key, model_id, engine_id, payload, writer_id,
  writer_seq, prev_hash, hash) AS row FROM relight.events;
