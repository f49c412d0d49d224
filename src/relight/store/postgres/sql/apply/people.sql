-- Signals, questions and their answers. What these statements are part of: opening.sql.

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
