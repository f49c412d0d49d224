-- The floor: the writes of Relight's commands as prepared statements, one row each, nothing checked but the fence.

-- name: fence
-- Batch number and chain head, as in every batch.
UPDATE engines SET batch_seq = ?, head_seq = ?, head_hash = ? WHERE engine_id = ? AND state = 'live'

-- name: new_jobs
-- As submit; the order of values is that of NewJob.
INSERT INTO jobs (job_id, kind, version, queue, priority, ready_at, claimable, on_stall, max_stalls, deadline_at,
                  idempotency_key, partition_key, inputs, inputs_hash, tags, trace_id, parent_job_id, parent_step_key,
                  detached, metrics, created_at, updated_at, state, status_reason)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?21,
        'queued', ?22)

-- name: start_runs
-- As claim, the job's half: (job_id, run_id, engine_id, attempt, at, version, terms).
UPDATE jobs SET state = 'running', status_reason = 'claimed', claimable = 0, ready_at = NULL, begun = 1,
                run_id = ?2, updated_at = ?5, version = ?6 WHERE job_id = ?1 AND attempt = ?4 AND ?7 IS ?7

-- name: new_runs
-- As claim, the run's half. (?6 and ?7 are named so that the statement takes as many values as the row has.)
INSERT INTO runs (run_id, job_id, engine_id, attempt, state, started_at) SELECT ?2, ?1, ?3, ?4, 'running', ?5 WHERE ?6 IS ?6 AND ?7 IS ?7

-- name: begin_steps
-- As the begin of a step; the order of values is that of BeginStep.
INSERT INTO steps (job_id, step_key, run_id, kind, name, state, try_number, policy, args_hashes, inputs, until, waits_for,
                   code_ref, begun_at, heartbeat_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: update_steps
-- As the end of a step; the order of values is that of UpdateStep.
UPDATE steps SET state = ?4, try_number = ?5, outcome = ?6, error = ?7, until = ?8, ended_at = ?9, run_id = ?3
 WHERE job_id = ?1 AND step_key = ?2

-- name: end_runs
-- (run_id, engine_id, state, reason, at)
UPDATE runs SET state = ?3, reason = ?4, ended_at = ?5 WHERE run_id = ?1 AND engine_id = ?2

-- name: end_jobs
-- The order of values is that of EndJob.
UPDATE jobs SET state = ?3, status_reason = ?4, outputs = ?5, error = ?6, issues = ?7, claimable = 0, ready_at = NULL,
                updated_at = ?8, completed_at = ?8, probation = 0 WHERE job_id = ?1 AND run_id = ?2

-- name: stall_runs
-- As recovery, the run's part; the order of values is that of StallRun.
UPDATE runs SET state = 'stalled', reason = ?4, ended_at = ?7
 WHERE run_id = ?2 AND job_id = ?1 AND engine_id = ?3

-- name: stall_jobs
-- As recovery, the job's part.
UPDATE jobs SET state = 'stalled', status_reason = ?4, updated_at = ?7, held_by = ?5, stalls = stalls + ?6
 WHERE job_id = ?1 AND run_id = ?2

-- name: doubt_steps
-- As recovery, the steps' part. (?7 is named so that the statement takes as many values as the row has.)
UPDATE steps SET state = 'in_doubt' WHERE job_id = ?1 AND run_id = ?2 AND state = 'running' AND ?7 > 0

-- name: events
-- The order of values is that of EventRow.
INSERT INTO events (event_id, type, ts, actor, actor_id, trace_id, job_id, run_id, step_key, model_id, engine_id,
                    payload, writer_id, writer_seq, prev_hash, hash)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
