-- What one batch is made of. The statements of those operations that have rows are sent in one go, in the order of
-- core/changes.py, between BEGIN and COMMIT: one round trip, one transaction (batch.py).
--
-- Each operation's rows are one parameter, a JSON array of row arrays (positions as in core/changes.py), read by jsonb: one
-- parse, then each field is found by its place. `given` is what was asked, `done` what was changed; where the numbers
-- differ, relight.must ends the batch with SQLSTATE RL002 and names the operation (RL001: the fence), and the server skips
-- everything up to the ROLLBACK.
--
-- Every statement has a snapshot of its own (READ COMMITTED): one that comes after a lock sees all that was committed by
-- whoever held it. So the locks come first, rows in the order of their keys: writers that this batch judges or whose runs it
-- ends by force (their own batches begin at that row), then queues with limits, then jobs, with the parents of those that
-- are born or end. An operation that may be split by a statement of its own has one more block, name/2.
--
-- `(jobs.state = 'running') IS TRUE` says the same as without IS TRUE, and keeps the planner from starting at an index on the
-- state: it would walk all running jobs, where it should look up the few that are named. Plans are made when tables may still
-- be empty, so what is cheapest then decides nothing here.
--
-- Where SQLite goes on with an upsert of a row that the same statement made, PostgreSQL refuses (21000): such a batch is
-- halved like any other that is refused.

-- name: begin
BEGIN ISOLATION LEVEL READ COMMITTED;

-- name: commit
COMMIT;

-- name: open_writers
-- Before the fence. The sequence is scanned before a row is made, so that its number is older than this transaction's xid.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS engine_id, value->>1 AS role, value->>2 AS name, value->>3 AS gate, value->>4 AS nonce,
         value->>5 AS host_id, value->>6 AS boot_id, (value->>7)::bigint AS pid, value->>8 AS version,
         (value->>9)::bigint AS lease_ms, (value->>10)::bigint AS lease_until, (value->>11)::bigint AS at,
         value->>12 AS kinds, value->>13 AS queues
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  INSERT INTO relight.engines (engine_id, role, name, gate, nonce, host_id, boot_id, pid, version, lease_ms, started_at,
                               kinds, queues, floor)
  SELECT engine_id, role, name, gate, nonce, host_id, boot_id, pid, version, lease_ms, at, kinds, queues,
         CASE WHEN numbers.is_called THEN numbers.last_value ELSE 0 END
    FROM given CROSS JOIN relight.events_seq_seq AS numbers
      ON CONFLICT DO NOTHING RETURNING engine_id),
beating AS (
  INSERT INTO relight.beats (engine_id, beat_at, lease_until)
  SELECT engine_id, at, lease_until FROM given JOIN done USING (engine_id))
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'open_writers');

-- name: fence
-- Anything but one row, and nothing of this batch is written. What an opening wrote as its floor stays.
WITH numbers AS MATERIALIZED (SELECT last_value, is_called FROM relight.events_seq_seq),
done AS (
  UPDATE relight.engines
     SET batch_seq = :batch_seq, head_seq = :head_seq, head_hash = :head_hash,
         floor = CASE WHEN :opening OR NOT numbers.is_called THEN engines.floor ELSE numbers.last_value END
    FROM numbers
   WHERE engines.engine_id = :writer_id AND engines.state = 'live' AND engines.batch_seq = :batch_seq::bigint - 1
     AND (SELECT value FROM relight.meta WHERE key = 'schema') = :schema_number
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = 1, 'fenced');

-- name: lock_engines
-- Writers whose state this batch changes, with their beats: what was judged must be what is there.
SELECT count(*) FROM (
  SELECT 1 FROM relight.engines AS e JOIN relight.beats AS b ON b.engine_id = e.engine_id
   WHERE e.engine_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:engine_ids::jsonb)))
      OR e.engine_id = ANY (ARRAY(SELECT r.engine_id FROM relight.runs AS r
                                   WHERE r.run_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:run_ids::jsonb)))))
   ORDER BY e.engine_id FOR NO KEY UPDATE) AS locked;

-- name: lock_queues
-- Queues whose slots or rates must hold over all engines.
SELECT count(*) FROM (
  SELECT 1 FROM relight.queues
   WHERE queue = ANY (ARRAY(SELECT jsonb_array_elements_text(:queues::jsonb)))
   ORDER BY queue FOR NO KEY UPDATE) AS locked;

-- name: lock_jobs
-- Jobs whose state this batch changes, or what they may wait for; and the parents of those that end.
SELECT count(*) FROM (
  SELECT 1 FROM relight.jobs
   WHERE job_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:job_ids::jsonb)
                             UNION ALL
                             SELECT e.parent_job_id FROM relight.jobs AS e
                              WHERE e.job_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:ending::jsonb)))))
   ORDER BY job_id FOR NO KEY UPDATE) AS locked;

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
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS run_id, value->>2 AS engine_id, (value->>3)::bigint AS attempt,
         (value->>4)::bigint AS at, value->>5 AS version, (value->>6)::bigint AS terms
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.jobs SET state = 'running', status_reason = 'claimed', claimable = false, ready_at = NULL, begun = true,
                          run_id = r.run_id, updated_at = r.at, version = r.version
    FROM given AS r
   WHERE jobs.job_id = r.job_id AND (jobs.state = 'queued' AND jobs.claimable) IS TRUE
     AND jobs.attempt = r.attempt AND (NOT jobs.begun OR jobs.version IS NOT DISTINCT FROM r.version)
     AND (r.terms IS NULL
          OR r.terms = coalesce((SELECT revision FROM relight.queues WHERE queues.queue = jobs.queue), 0))
     AND (SELECT gate FROM relight.engines WHERE engine_id = r.engine_id) = 'open'
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = r.job_id AND q.released_at IS NULL)
  RETURNING 1),
started AS (
  INSERT INTO relight.runs (run_id, job_id, engine_id, attempt, state, started_at)
  SELECT run_id, job_id, engine_id, attempt, 'running', at FROM given)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'start_runs');

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

-- name: begin_steps
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS step_key, value->>2 AS run_id, value->>3 AS kind, value->>4 AS name,
         value->>5 AS state, (value->>6)::bigint AS try_number, value->>7 AS policy, value->>8 AS args_hashes,
         value->>9 AS inputs, (value->>10)::bigint AS until, value->>11 AS waits_for, value->>12 AS code_ref,
         (value->>13)::bigint AS at, (value->>14)::bigint AS heartbeat_ms
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  INSERT INTO relight.steps (job_id, step_key, run_id, kind, name, state, try_number, policy, args_hashes, inputs, until,
                             waits_for, code_ref, begun_at, heartbeat_ms)
  SELECT job_id, step_key, run_id, kind, name, state, try_number, policy, args_hashes, inputs, until, waits_for, code_ref,
         at, heartbeat_ms
    FROM given AS r
   WHERE EXISTS (SELECT 1 FROM relight.runs
                  WHERE runs.run_id = r.run_id AND runs.job_id = r.job_id AND runs.state = 'running')
      ON CONFLICT (job_id, step_key) DO UPDATE
     SET run_id = excluded.run_id, state = excluded.state, try_number = excluded.try_number, policy = excluded.policy,
         args_hashes = excluded.args_hashes, inputs = excluded.inputs, until = excluded.until,
         waits_for = excluded.waits_for, code_ref = excluded.code_ref, begun_at = excluded.begun_at,
         heartbeat_ms = excluded.heartbeat_ms, ended_at = NULL
   WHERE steps.state IN ('running', 'waiting', 'backoff', 'in_doubt')
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'begin_steps');

-- name: update_steps
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS step_key, value->>2 AS run_id, value->>3 AS state,
         (value->>4)::bigint AS try_number, value->>5 AS outcome, value->>6 AS error, (value->>7)::bigint AS until,
         (value->>8)::bigint AS ended_at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.steps SET state = r.state, try_number = r.try_number, outcome = r.outcome, error = r.error,
                           until = r.until, ended_at = r.ended_at, run_id = r.run_id
    FROM given AS r
   WHERE steps.job_id = r.job_id AND steps.step_key = r.step_key
     AND steps.state IN ('running', 'waiting', 'backoff', 'in_doubt')
     AND EXISTS (SELECT 1 FROM relight.runs
                  WHERE runs.run_id = r.run_id AND runs.job_id = r.job_id AND runs.state = 'running')
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'update_steps');

-- name: set_progress
-- Before runs end: what a job said last is kept. Of several words in one batch the last stands.
WITH given AS MATERIALIZED (
  SELECT DISTINCT ON (1, 2) value->>0 AS job_id, value->>1 AS run_id, value->>2 AS progress
    FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)
   ORDER BY 1, 2, key DESC)
UPDATE relight.jobs SET progress = r.progress
  FROM given AS r WHERE jobs.job_id = r.job_id AND jobs.run_id = r.run_id AND (jobs.state = 'running') IS TRUE;

-- name: note_steps
-- Of several in one batch the last stands.
WITH given AS MATERIALIZED (
  SELECT DISTINCT ON (1, 2, 3) value->>0 AS job_id, value->>1 AS step_key, value->>2 AS run_id, value->>3 AS note,
                               (value->>4)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)
   ORDER BY 1, 2, 3, key DESC)
UPDATE relight.steps SET note = coalesce(r.note, steps.note), beat_at = r.at
  FROM given AS r
 WHERE steps.job_id = r.job_id AND steps.step_key = r.step_key AND steps.run_id = r.run_id AND steps.state = 'running';

-- name: new_tokens
WITH given AS MATERIALIZED (
  SELECT value->>0 AS token, value->>1 AS job_id, value->>2 AS step_key, value->>3 AS name, value->>4 AS type,
         (value->>5)::bigint AS at, (value->>6)::bigint AS expires_at, (value->>7)::bigint AS heartbeat_ms
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  INSERT INTO relight.tokens (token, job_id, step_key, name, type, created_at, expires_at, heartbeat_ms, beat_at)
  SELECT token, job_id, step_key, name, type, at, expires_at, heartbeat_ms, at FROM given
      ON CONFLICT DO NOTHING RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'new_tokens');

-- name: beat_tokens
-- A word about a token counts while the token is open, its time is not up, and its job has not ended. Of several in one
-- batch the last time and the last note stand: a word without a note takes none away.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS token, value->>1 AS job_id, value->>2 AS note, (value->>3)::bigint AS at, key
    FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)),
last AS (
  SELECT token, job_id, max(at) AS at,
         (array_agg(note ORDER BY key DESC) FILTER (WHERE note IS NOT NULL))[1] AS note
    FROM given GROUP BY 1, 2),
done AS (
  UPDATE relight.tokens SET beat_at = greatest(tokens.beat_at, r.at), note = coalesce(r.note, tokens.note)
    FROM last AS r
   WHERE tokens.token = r.token AND tokens.job_id = r.job_id AND tokens.state = 'open'
     AND (tokens.expires_at IS NULL OR tokens.expires_at > r.at)
     AND EXISTS (SELECT 1 FROM relight.jobs WHERE jobs.job_id = r.job_id AND jobs.completed_at IS NULL)
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(DISTINCT token) FROM given), 'beat_tokens');

-- name: close_tokens
WITH given AS MATERIALIZED (
  SELECT value->>0 AS token, value->>1 AS job_id, value->>2 AS state, value->>3 AS value, value->>4 AS error,
         value->>5 AS by, (value->>6)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.tokens SET state = r.state, value = r.value, error = r.error, by = r.by, ended_at = r.at
    FROM given AS r
   WHERE tokens.token = r.token AND tokens.job_id = r.job_id AND tokens.state = 'open'
     AND CASE r.state
           WHEN 'expired' THEN coalesce(tokens.expires_at <= r.at, false)
                               OR coalesce(tokens.beat_at + tokens.heartbeat_ms <= r.at, false)
           ELSE tokens.expires_at IS NULL OR tokens.expires_at > r.at END
     AND EXISTS (SELECT 1 FROM relight.jobs WHERE jobs.job_id = r.job_id AND jobs.completed_at IS NULL)
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'close_tokens');

-- name: put_published
-- Of several values under one name the last stands.
WITH given AS MATERIALIZED (
  SELECT DISTINCT ON (1, 3) value->>0 AS job_id, value->>1 AS run_id, value->>2 AS name, value->>3 AS value,
                            (value->>4)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)
   ORDER BY 1, 3, key DESC),
done AS (
  INSERT INTO relight.published (job_id, name, value, updated_at)
  SELECT job_id, name, value, at FROM given AS r
   WHERE EXISTS (SELECT 1 FROM relight.runs
                  WHERE runs.run_id = r.run_id AND runs.job_id = r.job_id AND runs.state = 'running')
      ON CONFLICT (job_id, name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'put_published');

-- name: new_signals
WITH given AS MATERIALIZED (
  SELECT value->>0 AS signal_id, value->>1 AS job_id, value->>2 AS name, value->>3 AS payload, value->>4 AS by,
         value->>5 AS idempotency_key, (value->>6)::bigint AS at, key
    FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)),
done AS (
  INSERT INTO relight.signals (signal_id, job_id, name, payload, by, idempotency_key, sent_at)
  SELECT signal_id, job_id, name, payload, by, idempotency_key, at FROM given AS r
   WHERE EXISTS (SELECT 1 FROM relight.jobs WHERE jobs.job_id = r.job_id AND jobs.completed_at IS NULL)
   ORDER BY r.key
      ON CONFLICT DO NOTHING RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'new_signals');

-- name: read_signals
WITH given AS MATERIALIZED (
  SELECT value->>0 AS signal_id, value->>1 AS job_id, value->>2 AS step_key FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.signals SET read_by = r.step_key
    FROM given AS r
   WHERE signals.job_id = r.job_id AND signals.signal_id = r.signal_id AND signals.read_by IS NULL
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'read_signals');

-- name: new_decisions
WITH given AS MATERIALIZED (
  SELECT value->>0 AS decision_id, value->>1 AS job_id, value->>2 AS step_key, value->>3 AS question, value->>4 AS options,
         value->>5 AS preview, value->>6 AS preview_hash, (value->>7)::bigint AS asked_at, (value->>8)::bigint AS expires_at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  INSERT INTO relight.decisions (decision_id, job_id, step_key, question, options, preview, preview_hash, asked_at,
                                 expires_at)
  SELECT decision_id, job_id, step_key, question, options, preview, preview_hash, asked_at, expires_at FROM given
      ON CONFLICT DO NOTHING RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'new_decisions');

-- name: close_decisions
WITH given AS MATERIALIZED (
  SELECT value->>0 AS decision_id, value->>1 AS job_id, value->>2 AS choice, value->>3 AS by, value->>4 AS note,
         (value->>5)::bigint AS at, (value->>6)::boolean AS expired, value->>7 AS value
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.decisions
     SET choice = r.choice, by = r.by, note = r.note, value = r.value, decided_at = r.at,
         state = CASE WHEN r.expired THEN 'expired' WHEN r.choice IS NULL THEN 'withdrawn' ELSE 'given' END
    FROM given AS r
   WHERE decisions.decision_id = r.decision_id AND decisions.job_id = r.job_id AND decisions.state = 'open'
     AND (r.expired OR r.choice IS NULL OR decisions.expires_at IS NULL OR decisions.expires_at > r.at)
     AND EXISTS (SELECT 1 FROM relight.jobs WHERE jobs.job_id = r.job_id AND jobs.completed_at IS NULL)
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'close_decisions');

-- name: settle_steps
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS step_key, value->>2 AS state, value->>3 AS outcome, value->>4 AS error,
         (value->>5)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.steps SET state = r.state, outcome = r.outcome, error = r.error,
                           until = CASE r.state WHEN 'backoff' THEN r.at END,
                           ended_at = CASE WHEN r.state <> 'backoff' THEN r.at END
    FROM given AS r
   WHERE steps.job_id = r.job_id AND steps.step_key = r.step_key AND steps.state = 'in_doubt'
     AND EXISTS (SELECT 1 FROM relight.jobs
                  WHERE jobs.job_id = r.job_id AND jobs.state IN ('stalled', 'queued', 'awaiting_user'))
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'settle_steps');

-- name: stall_runs
-- Recovery, and nothing else, stalls: the owner must be held dead or silent. Steps in flight are in doubt from here on. A
-- stall counts towards the crash-loop limit only without a new checkpoint since the last one.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS run_id, value->>2 AS engine_id, value->>3 AS status_reason, value->>4 AS held_by,
         (value->>5)::boolean AS counts, (value->>6)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
counted AS (
  SELECT given.*, CASE WHEN counts THEN (SELECT count(*) FROM relight.steps
                                          WHERE steps.job_id = given.job_id AND steps.state = 'completed')
                  END AS checkpoints
    FROM given),
stalled AS (
  UPDATE relight.runs SET state = 'stalled', reason = r.status_reason, ended_at = r.at
    FROM given AS r
   WHERE runs.run_id = r.run_id AND runs.job_id = r.job_id AND runs.state = 'running' AND runs.engine_id = r.engine_id
     AND (SELECT state FROM relight.engines WHERE engine_id = r.engine_id) IN ('dead', 'silent')
  RETURNING 1),
done AS (
  UPDATE relight.jobs
     SET state = 'stalled', status_reason = r.status_reason, claimable = false, ready_at = NULL, updated_at = r.at,
         held_by = r.held_by,
         stalls = CASE WHEN NOT r.counts THEN jobs.stalls
                       WHEN coalesce(jobs.stalled_at_checkpoint, -1) = r.checkpoints THEN jobs.stalls + 1 ELSE 1 END,
         stalled_at_checkpoint = CASE WHEN r.counts THEN r.checkpoints ELSE jobs.stalled_at_checkpoint END
    FROM counted AS r
   WHERE jobs.job_id = r.job_id AND (jobs.state = 'running') IS TRUE AND jobs.run_id = r.run_id
  RETURNING 1),
doubted AS (
  UPDATE relight.steps SET state = 'in_doubt'
    FROM given AS r
   WHERE steps.job_id = r.job_id AND steps.state = 'running' AND steps.kind IN ('step', 'poll'))
SELECT relight.must((SELECT count(*) FROM stalled) = (SELECT count(*) FROM given)
                    AND (SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'stall_runs');

-- name: end_runs
WITH given AS MATERIALIZED (
  SELECT value->>0 AS run_id, value->>1 AS engine_id, value->>2 AS state, value->>3 AS reason, (value->>4)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.runs SET state = r.state, reason = r.reason, ended_at = r.at
    FROM given AS r
   WHERE runs.run_id = r.run_id AND runs.state = 'running' AND (r.engine_id IS NULL OR runs.engine_id = r.engine_id)
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'end_runs');

-- name: end_jobs
-- No step is in flight in a job whose run has ended: what began and has no outcome is in doubt.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS run_id, value->>2 AS state, value->>3 AS status_reason, value->>4 AS outputs,
         value->>5 AS error, value->>6 AS issues, (value->>7)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.jobs SET state = r.state, status_reason = r.status_reason, outputs = r.outputs, error = r.error,
                          issues = r.issues, claimable = false, ready_at = NULL, updated_at = r.at, completed_at = r.at,
                          probation = false
    FROM given AS r
   WHERE jobs.job_id = r.job_id AND (jobs.state = 'running') IS TRUE AND jobs.run_id = r.run_id
  RETURNING 1),
doubted AS (
  UPDATE relight.steps SET state = 'in_doubt'
    FROM given AS r
   WHERE steps.job_id = r.job_id AND steps.state = 'running' AND steps.kind IN ('step', 'poll'))
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'end_jobs');

-- name: put_away
-- Putting away looks again, under the lock, at everything the job may wait for: no wake-up is lost. A job whose answer has
-- come, or that was asked to end, is not put away for a person: refused, and its engine queues it instead.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS run_id, value->>2 AS state, value->>3 AS status_reason,
         (value->>4)::bigint AS ready_at, (value->>5)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
looked AS (
  SELECT p.*,
         (p.ready_at IS NOT NULL AND p.ready_at <= p.at)
         OR EXISTS (SELECT 1 FROM relight.steps AS w
                     WHERE w.job_id = p.job_id AND w.state = 'waiting' AND w.waits_for IS NOT NULL AND CASE w.kind
                       WHEN 'signal' THEN EXISTS (SELECT 1 FROM relight.signals AS g WHERE g.job_id = w.job_id
                                                     AND g.name = w.waits_for AND g.read_by IS NULL)
                       WHEN 'ask' THEN EXISTS (SELECT 1 FROM relight.decisions AS d WHERE d.decision_id = w.waits_for
                                                  AND d.state <> 'open')
                       WHEN 'child_result' THEN EXISTS (SELECT 1 FROM relight.jobs AS c WHERE c.job_id = w.waits_for
                                                           AND c.completed_at IS NOT NULL)
                       WHEN 'external' THEN EXISTS (SELECT 1 FROM relight.tokens AS t WHERE t.token = w.waits_for
                                                       AND t.state <> 'open')
                       ELSE false END) AS came
    FROM given AS p),
done AS (
  UPDATE relight.jobs
     SET state = r.state, status_reason = r.status_reason,
         claimable = r.state = 'queued' AND (r.came OR jobs.cancel_code IS NOT NULL),
         ready_at = CASE WHEN r.state = 'queued' AND (r.came OR jobs.cancel_code IS NOT NULL) THEN r.at
                         ELSE r.ready_at END,
         updated_at = r.at, probation = false,
         accepting = jobs.accepting AND r.state = 'queued' AND r.status_reason <> 'waiting'
    FROM looked AS r
   WHERE jobs.job_id = r.job_id AND (jobs.state = 'running') IS TRUE AND jobs.run_id = r.run_id
     AND NOT (r.state = 'awaiting_user'
              AND (jobs.cancel_code IS NOT NULL OR (r.came AND r.status_reason = 'awaiting_user')))
  RETURNING 1),
doubted AS (
  UPDATE relight.steps SET state = 'in_doubt'
    FROM given AS r
   WHERE steps.job_id = r.job_id AND steps.state = 'running' AND steps.kind IN ('step', 'poll'))
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'put_away');

-- name: move_jobs
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS source, value->>2 AS source_reason, value->>3 AS target,
         value->>4 AS status_reason, (value->>5)::boolean AS claimable, (value->>6)::boolean AS new_attempt,
         (value->>7)::boolean AS probation, value->>8 AS error, (value->>9)::bigint AS at, (value->>10)::boolean AS begun,
         (value->>11)::boolean AS accepting
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.jobs
     SET state = r.target, status_reason = r.status_reason, claimable = r.claimable,
         ready_at = CASE WHEN r.claimable THEN r.at END, attempt = jobs.attempt + r.new_attempt::int,
         probation = r.probation, updated_at = r.at,
         error = CASE WHEN r.target IN ('queued') THEN NULL ELSE coalesce(r.error, jobs.error) END,
         cancel_code = CASE WHEN r.source IN ('failed', 'poisoned') THEN NULL ELSE jobs.cancel_code END,
         cancel_reason = CASE WHEN r.source IN ('failed', 'poisoned') THEN NULL ELSE jobs.cancel_reason END,
         cancel_by = CASE WHEN r.source IN ('failed', 'poisoned') THEN NULL ELSE jobs.cancel_by END,
         deadline_at = CASE WHEN r.source IN ('failed', 'poisoned') THEN NULL ELSE jobs.deadline_at END,
         stalls = CASE WHEN r.source IN ('failed', 'poisoned') THEN 0 ELSE jobs.stalls END,
         held_by = CASE WHEN r.target = 'stalled' THEN jobs.held_by END,
         accepting = jobs.accepting OR r.accepting,
         completed_at = CASE WHEN r.target IN ('failed', 'cancelled', 'poisoned') THEN r.at END
    FROM given AS r
   WHERE jobs.job_id = r.job_id AND (jobs.state = r.source) IS TRUE AND (r.begun IS NULL OR jobs.begun = r.begun)
     AND (r.source_reason IS NULL OR jobs.status_reason = r.source_reason)
  RETURNING 1),
doubted AS (
  UPDATE relight.steps SET state = 'in_doubt'
    FROM given AS r
   WHERE r.source = 'running' AND steps.job_id = r.job_id AND steps.state = 'running' AND steps.kind IN ('step', 'poll'))
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'move_jobs');

-- name: reopen_steps
-- A child's end that was read is read again: the child may have been retried since.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS step_key FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.steps SET state = 'backoff', until = 0, try_number = 0, ended_at = NULL,
                           outcome = CASE WHEN kind = 'child_result' THEN NULL ELSE outcome END
    FROM given AS r
   WHERE steps.job_id = r.job_id AND steps.step_key = r.step_key
     AND (steps.state IN ('failed', 'abandoned') OR steps.kind = 'child_result')
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'reopen_steps');

-- name: wake_jobs
-- A wake-up reaches a job that was put away and waits for just this; a running one is told by its engine. What nobody waits
-- for is left out before the wake-ups of one job are put together: it must not hide one that somebody waits for.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS waits_for, (value->>2)::boolean AS decided, (value->>3)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
wanted AS (
  SELECT job_id, bool_or(decided) AS decided, max(at) AS at
    FROM given AS k
   WHERE EXISTS (SELECT 1 FROM relight.steps AS w
                  WHERE w.waits_for = k.waits_for AND w.job_id = k.job_id AND w.state = 'waiting')
   GROUP BY job_id)
UPDATE relight.jobs SET state = 'queued', claimable = true, ready_at = r.at, updated_at = r.at,
                        status_reason = CASE jobs.state WHEN 'awaiting_user' THEN 'decided' ELSE jobs.status_reason END
  FROM wanted AS r
 WHERE jobs.job_id = r.job_id AND (jobs.state = 'queued' OR (r.decided AND jobs.state = 'awaiting_user')) IS TRUE;

-- name: cancel_jobs
-- Put away or stalled, the job is queued for its last run, and its reason says so.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS code, value->>2 AS reason, value->>3 AS by, (value->>4)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.jobs
     SET cancel_code = r.code, cancel_reason = r.reason, cancel_by = r.by, updated_at = r.at,
         status_reason = CASE WHEN jobs.state = 'running' OR jobs.held_by IS NOT NULL THEN jobs.status_reason
                              ELSE 'asked_to_end:' || r.code END,
         state = CASE WHEN jobs.state IN ('awaiting_user', 'stalled') AND jobs.held_by IS NULL THEN 'queued'
                      ELSE jobs.state END,
         attempt = jobs.attempt + (jobs.state = 'stalled' AND jobs.held_by IS NULL)::int,
         claimable = jobs.state IN ('queued', 'awaiting_user') OR (jobs.state = 'stalled' AND jobs.held_by IS NULL),
         ready_at = CASE WHEN jobs.state IN ('queued', 'awaiting_user') OR (jobs.state = 'stalled' AND jobs.held_by IS NULL)
                         THEN r.at END
    FROM given AS r
   WHERE jobs.job_id = r.job_id AND jobs.begun AND jobs.cancel_code IS NULL
     AND (jobs.state IN ('queued', 'awaiting_user', 'running', 'stalled')) IS TRUE
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'cancel_jobs');

-- name: wake_parents
-- A parent that was put away waiting for a job that ended in this batch may go on.
WITH ended AS MATERIALIZED (
  SELECT e.job_id, e.completed_at AS at FROM relight.jobs AS e
   WHERE e.job_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:ending::jsonb))) AND e.completed_at IS NOT NULL),
wanted AS (
  SELECT w.job_id, max(e.at) AS at
    FROM ended AS e JOIN relight.steps AS w
      ON w.waits_for = e.job_id AND w.state = 'waiting' AND w.kind = 'child_result'
   GROUP BY w.job_id)
UPDATE relight.jobs SET claimable = true, ready_at = r.at, updated_at = r.at
  FROM wanted AS r WHERE jobs.job_id = r.job_id AND (jobs.state = 'queued' AND NOT jobs.claimable) IS TRUE;

-- name: route_jobs
-- A queued job that has begun goes on under another version of its kind.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS seen, value->>2 AS version, (value->>3)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.jobs SET version = r.version, updated_at = r.at
    FROM given AS r
   WHERE jobs.job_id = r.job_id AND (jobs.state = 'queued') IS TRUE AND jobs.begun
     AND jobs.version IS NOT DISTINCT FROM r.seen
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'route_jobs');

-- name: wake_due
-- On jobs_due. Those that somebody else has locked are passed over: they are due again at the next look.
WITH given AS MATERIALIZED (
  SELECT max((value->>0)::bigint) AS now FROM jsonb_array_elements(:rows::jsonb)),
due AS MATERIALIZED (
  SELECT job_id FROM relight.jobs
   WHERE NOT claimable AND ready_at IS NOT NULL AND (state = 'queued') IS TRUE AND ready_at <= (SELECT now FROM given)
   ORDER BY ready_at FOR NO KEY UPDATE SKIP LOCKED)
UPDATE relight.jobs SET claimable = true FROM due WHERE jobs.job_id = due.job_id;

-- name: judge_engines
WITH given AS MATERIALIZED (
  SELECT value->>0 AS engine_id, value->>1 AS source, value->>2 AS target, (value->>3)::bigint AS beat_at,
         value->>4 AS verdict, value->>5 AS evidence, (value->>6)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.engines SET state = r.target, verdict = r.verdict, evidence = r.evidence, ended_at = r.at
    FROM given AS r
   WHERE engines.engine_id = r.engine_id AND engines.state = r.source AND engines.engine_id <> :writer_id
     AND r.source <> 'dead' AND r.source <> r.target
     AND (SELECT beat_at FROM relight.beats WHERE beats.engine_id = r.engine_id) = r.beat_at
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'judge_engines');

-- name: set_gates
WITH given AS MATERIALIZED (
  SELECT value->>0 AS engine_id, value->>1 AS gate, value->>2 AS detail, (value->>3)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.engines SET gate = r.gate, gate_detail = r.detail,
                             gate_opened_at = CASE r.gate WHEN 'open' THEN r.at END
    FROM given AS r
   WHERE engines.engine_id = r.engine_id AND engines.gate <> 'open'
     AND (r.gate <> 'open' OR NOT EXISTS (
           SELECT 1 FROM relight.engines AS d JOIN relight.runs ON runs.engine_id = d.engine_id AND runs.state = 'running'
            WHERE d.state IN ('dead', 'silent')
              AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q
                               WHERE q.job_id = runs.job_id AND q.released_at IS NULL)))
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'set_gates');

-- name: beats
WITH given AS MATERIALIZED (
  SELECT value->>0 AS engine_id, max((value->>1)::bigint) AS beat_at, max((value->>2)::bigint) AS lease_until
    FROM jsonb_array_elements(:rows::jsonb) GROUP BY 1)
UPDATE relight.beats SET beat_at = r.beat_at, lease_until = r.lease_until
  FROM given AS r WHERE beats.engine_id = r.engine_id;

-- name: new_quarantines
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS table_name, value->>2 AS code, value->>3 AS detail, value->>4 AS recovery_id,
         (value->>5)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  INSERT INTO relight.quarantine (job_id, table_name, code, detail, recovery_id, quarantined_at)
  SELECT job_id, table_name, code, detail, recovery_id, at FROM given
      ON CONFLICT (job_id) DO UPDATE
     SET table_name = excluded.table_name, code = excluded.code, detail = excluded.detail,
         recovery_id = excluded.recovery_id, quarantined_at = excluded.quarantined_at, released_at = NULL
   WHERE quarantine.released_at IS NOT NULL
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'new_quarantines');

-- name: release_rows
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, (value->>1)::bigint AS at FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.quarantine SET released_at = r.at
    FROM given AS r WHERE quarantine.job_id = r.job_id AND quarantine.released_at IS NULL
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'release_rows');

-- name: release_holds
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS engine_id, (value->>2)::bigint AS at FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.jobs SET held_by = NULL, updated_at = r.at
    FROM given AS r WHERE jobs.job_id = r.job_id AND jobs.held_by = r.engine_id AND (jobs.state = 'stalled') IS TRUE
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'release_holds');

-- name: new_recoveries
INSERT INTO relight.recoveries (recovery_id, engine_id, engines, scanned, stalled, in_doubt, quarantined, started_at,
                                duration_ms)
SELECT value->>0, value->>1, value->>2, (value->>3)::bigint, (value->>4)::bigint, (value->>5)::bigint, (value->>6)::bigint,
       (value->>7)::bigint, (value->>8)::bigint
  FROM jsonb_array_elements(:rows::jsonb);

-- name: put_kinds
-- In order: two engines that start with the same kinds must not wait for each other crosswise.
INSERT INTO relight.kinds (kind, version, registered_at)
SELECT value->>0, coalesce(value->>1, ''), (value->>2)::bigint FROM jsonb_array_elements(:rows::jsonb)
 ORDER BY 1, 2
    ON CONFLICT DO NOTHING;

-- name: put_queues
-- A queue's revision is one more than the one that was seen: what follows another one is refused.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS queue, (value->>1)::bigint AS slots, (value->>2)::bigint AS per_engine_slots,
         (value->>3)::bigint AS priority, value->>4 AS rate, (value->>5)::bigint AS at, value->>6 AS by,
         (value->>7)::bigint AS seen
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  INSERT INTO relight.queues (queue, slots, per_engine_slots, priority, rate, updated_at, defined_at, defined_by, revision)
  SELECT queue, slots, per_engine_slots, priority, rate, at, at, by, 1 + seen FROM given ORDER BY queue
      ON CONFLICT (queue) DO UPDATE
     SET slots = excluded.slots, per_engine_slots = excluded.per_engine_slots, priority = excluded.priority,
         rate = excluded.rate, updated_at = excluded.updated_at, defined_at = excluded.defined_at,
         defined_by = excluded.defined_by, revision = excluded.revision,
         previous = CASE WHEN queues.defined_by IS NULL THEN NULL ELSE concat(
           '{"slots":', coalesce(queues.slots::text, 'null'), ',"per_engine_slots":', coalesce(queues.per_engine_slots::text, 'null'),
           ',"priority":', queues.priority, ',"rate":', coalesce(queues.rate, 'null'), ',"by":', to_json(queues.defined_by),
           ',"at":', coalesce(queues.defined_at::text, 'null'), '}') END
   WHERE queues.revision = excluded.revision - 1
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'put_queues');

-- name: set_queues
WITH given AS MATERIALIZED (
  SELECT value->>0 AS queue, (value->>1)::boolean AS paused, value->>2 AS override, value->>3 AS by,
         (value->>4)::bigint AS seen, (value->>5)::bigint AS at
    FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  INSERT INTO relight.queues (queue, paused, override, override_by, revision, updated_at)
  SELECT queue, paused, override, by, 1 + seen, at FROM given ORDER BY queue
      ON CONFLICT (queue) DO UPDATE
     SET paused = excluded.paused, override = excluded.override, override_by = excluded.override_by,
         revision = excluded.revision, updated_at = excluded.updated_at
   WHERE queues.revision = excluded.revision - 1
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'set_queues');

-- name: close_writers
WITH given AS MATERIALIZED (
  SELECT value->>0 AS engine_id, (value->>1)::bigint AS at FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.engines SET state = 'stopped', ended_at = r.at
    FROM given AS r WHERE engines.engine_id = r.engine_id AND engines.state = 'live'
  RETURNING 1)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'close_writers');

-- name: events
-- Last, when everything has been found in order: a number that is given here is hardly ever lost.
INSERT INTO relight.events (event_id, type, ts, actor, actor_id, trace_id, job_id, run_id, step_key, model_id, engine_id,
                            payload, writer_id, writer_seq, prev_hash, hash, floor)
SELECT value->>0, value->>1, (value->>2)::bigint, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9,
       value->>10, value->>11, value->>12, (value->>13)::bigint, value->>14, value->>15,
       (SELECT floor FROM relight.engines WHERE engine_id = :writer_id)
  FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)
 ORDER BY e.key;
