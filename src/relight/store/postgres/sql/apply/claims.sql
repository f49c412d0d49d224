-- Jobs that come, and runs that begin: within slots, rates and turns. What these statements are part of: opening.sql.

-- name: name_heads
WITH given AS MATERIALIZED (
  SELECT value->>0 AS engine_id, max((value->>1)::bigint) AS head_seq
    FROM jsonb_array_elements(:rows::jsonb) GROUP BY 1)
UPDATE relight.engines SET named_seq = greatest(named_seq, r.head_seq)
  FROM given AS r WHERE engines.engine_id = r.engine_id;

-- name: new_jobs
-- A job of a parent that has ended is refused: nothing would ever wait for it or cancel it.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS kind, value->>2 AS version, value->>3 AS queue, (value->>4)::bigint AS priority,
         (value->>5)::bigint AS ready_at, (value->>6)::boolean AS claimable, value->>7 AS on_stall,
         (value->>8)::bigint AS max_stalls, (value->>9)::bigint AS deadline_at, value->>10 AS idempotency_key,
         value->>11 AS partition_key, value->>12 AS inputs, value->>13 AS inputs_hash, value->>14 AS tags,
         value->>15 AS trace_id, value->>16 AS parent_job_id, value->>17 AS parent_step_key,
         (value->>18)::boolean AS detached, value->>19 AS metrics, (value->>20)::bigint AS at, value->>21 AS status_reason
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  INSERT INTO relight.jobs (job_id, kind, version, state, status_reason, queue, priority, ready_at, claimable, on_stall,
                            max_stalls, deadline_at, idempotency_key, partition_key, inputs, inputs_hash, tags, trace_id,
                            parent_job_id, parent_step_key, detached, metrics, created_at, updated_at)
  SELECT job_id, kind, version, 'queued', status_reason, queue, priority, ready_at, claimable, on_stall, max_stalls,
         deadline_at, idempotency_key, partition_key, inputs, inputs_hash, tags, trace_id, parent_job_id, parent_step_key,
         detached, metrics, at, at
    FROM given AS r
   WHERE r.parent_job_id IS NULL
      OR EXISTS (SELECT 1 FROM relight.jobs AS p WHERE p.job_id = r.parent_job_id AND p.completed_at IS NULL)
      ON CONFLICT DO NOTHING RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'new_jobs');

-- name: start_runs
-- Engines that look at the same moment want the same jobs. A job that another one holds is not waited for (its commit may
-- take a disk's while): it is lost, and what is lost is named by its place, so that the others are claimed at the second go.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS run_id, value->>2 AS engine_id, (value->>3)::bigint AS attempt,
         (value->>4)::bigint AS at, value->>5 AS version, (value->>6)::bigint AS terms, key,
         row_number() OVER (PARTITION BY value->>0 ORDER BY key) AS nth
    FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)),
mine AS MATERIALIZED (
  SELECT r.* FROM given AS r JOIN relight.jobs ON jobs.job_id = r.job_id
   WHERE r.nth = 1 AND (jobs.state = 'queued' AND jobs.claimable) IS TRUE
     AND jobs.attempt = r.attempt AND (NOT jobs.begun OR jobs.version IS NOT DISTINCT FROM r.version)
     AND (r.terms IS NULL
          OR r.terms = coalesce((SELECT revision FROM relight.queues WHERE queues.queue = jobs.queue), 0))
     AND (SELECT gate FROM relight.engines WHERE engine_id = r.engine_id) = 'open'
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = r.job_id AND q.released_at IS NULL)
   ORDER BY r.job_id FOR NO KEY UPDATE OF jobs SKIP LOCKED),
done AS (
  UPDATE relight.jobs SET state = 'running', status_reason = 'claimed', claimable = false, ready_at = NULL, begun = true,
                          run_id = r.run_id, updated_at = r.at, version = r.version
    FROM mine AS r WHERE jobs.job_id = r.job_id),
started AS (
  INSERT INTO relight.runs (run_id, job_id, engine_id, attempt, state, started_at)
  SELECT run_id, job_id, engine_id, attempt, 'running', at FROM mine)
SELECT relight.must(lost.places IS NULL, 'start_runs:' || lost.places)
  FROM (SELECT string_agg(key::text, ',') AS places FROM given WHERE key NOT IN (SELECT key FROM mine)) AS lost;

-- name: queue_limits
-- After the claims of this batch, under the queue's lock where the limit is one over all engines.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS queue, value->>1 AS engine_id, (value->>2)::bigint AS slots
    FROM jsonb_array_elements(:rows::jsonb))
SELECT relight.must(NOT EXISTS (
  SELECT 1 FROM given AS r
   WHERE r.slots < (SELECT count(*) FROM relight.jobs
                     WHERE jobs.state = 'running' AND jobs.queue = r.queue
                       AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q
                                        WHERE q.job_id = jobs.job_id AND q.released_at IS NULL)
                       AND (r.engine_id IS NULL
                            OR (SELECT engine_id FROM relight.runs WHERE runs.run_id = jobs.run_id) = r.engine_id))),
  'queue_limits');

-- name: copy_steps
-- A fork's steps are finished where they come from, and stay the run's that made them.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS source_job_id, value->>2 AS step_key, key
    FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)),
done AS (
  INSERT INTO relight.steps (job_id, step_key, run_id, kind, name, state, try_number, policy, args_hashes, inputs, outcome,
                             error, until, waits_for, code_ref, note, begun_at, ended_at)
  SELECT r.job_id, s.step_key, s.run_id, s.kind, s.name, s.state, s.try_number, s.policy, s.args_hashes, s.inputs,
         s.outcome, s.error, s.until, s.waits_for, s.code_ref, s.note, s.begun_at, s.ended_at
    FROM given AS r
    JOIN relight.steps AS s
      ON s.job_id = r.source_job_id AND s.step_key = r.step_key AND s.state IN ('completed', 'failed', 'abandoned')
   ORDER BY r.key
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'copy_steps');

-- name: rewind_rates
-- A clock that was set back by more than a rate's window: what lies ahead of it counts as of then.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS queue, min((value->>1)::bigint) AS at FROM jsonb_array_elements(:rows::jsonb) GROUP BY 1)
UPDATE relight.rate_starts SET started_at = r.at
  FROM given AS r WHERE rate_starts.queue = r.queue AND rate_starts.started_at > r.at;

-- name: rate_limits
-- Starts of a queue are numbered, under the queue's lock; its time does not go back.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS queue, (value->>3)::bigint AS at, key
    FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)),
last AS (
  SELECT q.queue, coalesce(l.number, 0) AS number, coalesce(l.started_at, 0) AS started_at
    FROM (SELECT DISTINCT queue FROM given) AS q
    LEFT JOIN LATERAL (SELECT number, started_at FROM relight.rate_starts AS s
                        WHERE s.queue = q.queue ORDER BY number DESC LIMIT 1) AS l ON true)
INSERT INTO relight.rate_starts (queue, number, started_at)
SELECT r.queue, last.number + row_number() OVER (PARTITION BY r.queue ORDER BY r.key),
       greatest(max(r.at) OVER (PARTITION BY r.queue ORDER BY r.key), last.started_at)
  FROM given AS r JOIN last ON last.queue = r.queue;

-- name: rate_limits/2
-- Start k is refused while start k - n lies less than the window before it.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS queue, (value->>1)::bigint AS n, (value->>2)::bigint AS per_ms,
         row_number() OVER (PARTITION BY value->>0 ORDER BY key DESC) AS from_end
    FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)),
numbered AS (
  SELECT queue, n, per_ms,
         (SELECT max(s.number) FROM relight.rate_starts AS s WHERE s.queue = given.queue) + 1 - from_end AS number
    FROM given)
SELECT relight.must(NOT EXISTS (
  SELECT 1 FROM numbered AS r
    JOIN relight.rate_starts AS mine ON mine.queue = r.queue AND mine.number = r.number
    JOIN relight.rate_starts AS nth ON nth.queue = r.queue AND nth.number = r.number - r.n
   WHERE nth.started_at > mine.started_at - r.per_ms), 'rate_limits');

-- name: rate_limits/3
-- Only the last n starts matter.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS queue, max((value->>1)::bigint) AS n FROM jsonb_array_elements(:rows::jsonb) GROUP BY 1)
DELETE FROM relight.rate_starts AS old USING given AS r
 WHERE old.queue = r.queue
   AND old.number <= (SELECT max(s.number) FROM relight.rate_starts AS s WHERE s.queue = r.queue) - r.n;

-- name: take_turns
-- Of several turns in one batch the last stands.
WITH given AS MATERIALIZED (
  SELECT DISTINCT ON (1, 2) value->>0 AS queue, (value->>1)::bigint AS priority, value->>2 AS partition_key
    FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)
   ORDER BY 1, 2, key DESC)
INSERT INTO relight.turns (queue, priority, partition_key)
SELECT queue, priority, partition_key FROM given
    ON CONFLICT (queue, priority) DO UPDATE SET partition_key = excluded.partition_key;

-- name: accept_arguments
-- What a finished step was called with is rewritten only where an operator accepted it, in a run of the job itself.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS step_key, value->>2 AS run_id, value->>3 AS args_hashes
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.steps SET args_hashes = r.args_hashes
    FROM given AS r
   WHERE steps.job_id = r.job_id AND steps.step_key = r.step_key AND steps.state IN ('completed', 'failed', 'abandoned')
     AND EXISTS (SELECT 1 FROM relight.runs
                  WHERE runs.run_id = r.run_id AND runs.job_id = r.job_id AND runs.state = 'running')
     AND (SELECT accepting FROM relight.jobs WHERE jobs.job_id = r.job_id)
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'accept_arguments');
