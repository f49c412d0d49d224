-- Timers, verdicts, gates, beats, quarantine, definitions. What these statements are part of: opening.sql.

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
