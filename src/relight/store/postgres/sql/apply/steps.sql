-- What a run records of its steps, and what it hands to the world outside. What these statements are part of: opening.sql.

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
