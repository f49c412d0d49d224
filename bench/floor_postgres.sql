-- The floor on PostgreSQL: the writes of Relight's commands as prepared statements, one row each, nothing checked but the fence.

-- name: fence
-- Batch number and chain head, as in every batch.
UPDATE relight.engines SET batch_seq = $1, head_seq = $2, head_hash = $3 WHERE engine_id = $4 AND state = 'live'

-- name: new_jobs
-- As submit; the order of values is that of NewJob.
INSERT INTO relight.jobs (job_id, kind, version, queue, priority, ready_at, claimable, on_stall, max_stalls, deadline_at,
                  idempotency_key, partition_key, inputs, inputs_hash, tags, trace_id, parent_job_id, parent_step_key,
                  detached, metrics, created_at, updated_at, state, status_reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $21,
        'queued', $22)

-- name: start_runs
-- As claim, the job's half: (job_id, run_id, engine_id, attempt, at, version, terms).
UPDATE relight.jobs SET state = 'running', status_reason = 'claimed', claimable = false, ready_at = NULL, begun = true,
                run_id = $2, updated_at = $5, version = $6 WHERE job_id = $1 AND attempt = $4 AND num_nulls($3::text, $7::bigint) >= 0

-- name: new_runs
-- As claim, the run's half. (num_nulls names what is not used, so that the statement takes as many values as the row has.)
INSERT INTO relight.runs (run_id, job_id, engine_id, attempt, state, started_at)
SELECT $2, $1, $3, $4, 'running', $5 WHERE num_nulls($6::text, $7::bigint) >= 0

-- name: begin_steps
-- As the begin of a step; the order of values is that of BeginStep.
INSERT INTO relight.steps (job_id, step_key, run_id, kind, name, state, try_number, policy, args_hashes, inputs, until, waits_for,
                   code_ref, begun_at, heartbeat_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)

-- name: update_steps
-- As the end of a step; the order of values is that of UpdateStep.
UPDATE relight.steps SET state = $4, try_number = $5, outcome = $6, error = $7, until = $8, ended_at = $9, run_id = $3
 WHERE job_id = $1 AND step_key = $2

-- name: end_runs
-- (run_id, engine_id, state, reason, at)
UPDATE relight.runs SET state = $3, reason = $4, ended_at = $5 WHERE run_id = $1 AND engine_id = $2

-- name: end_jobs
-- The order of values is that of EndJob.
UPDATE relight.jobs SET state = $3, status_reason = $4, outputs = $5, error = $6, issues = $7, claimable = false, ready_at = NULL,
                updated_at = $8, completed_at = $8, probation = false WHERE job_id = $1 AND run_id = $2

-- name: stall_runs
-- As recovery, the run's part; the order of values is that of StallRun.
UPDATE relight.runs SET state = 'stalled', reason = $4, ended_at = $7
 WHERE run_id = $2 AND job_id = $1 AND engine_id = $3 AND num_nulls($5::text, $6::boolean) >= 0

-- name: stall_jobs
-- As recovery, the job's part.
UPDATE relight.jobs SET state = 'stalled', status_reason = $4, updated_at = $7, held_by = $5, stalls = stalls + $6::boolean::int
 WHERE job_id = $1 AND run_id = $2 AND num_nulls($3::text) >= 0

-- name: doubt_steps
-- As recovery, the steps' part.
UPDATE relight.steps SET state = 'in_doubt' WHERE job_id = $1 AND run_id = $2 AND state = 'running'
   AND num_nulls($3::text, $4::text, $5::text, $6::boolean, $7::bigint) >= 0

-- name: events
-- The order of values is that of EventRow.
INSERT INTO relight.events (event_id, type, ts, actor, actor_id, trace_id, job_id, run_id, step_key, model_id, engine_id,
                    payload, writer_id, writer_seq, prev_hash, hash, floor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 0)
