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
