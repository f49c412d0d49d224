-- Runs that end, and what that moves: their jobs, steps left in flight, parents, those who wait. What these statements are
-- part of: opening.sql.

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
-- No step is in flight in a job whose run has ended: what began and has no outcome is in doubt. Nothing waits in it, and no
-- question is open.
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
left_behind AS (
  UPDATE relight.steps SET state = CASE steps.state WHEN 'waiting' THEN 'abandoned' ELSE 'in_doubt' END,
                           ended_at = CASE steps.state WHEN 'waiting' THEN r.at ELSE steps.ended_at END
    FROM given AS r
   WHERE steps.job_id = r.job_id
     AND (steps.state = 'waiting' OR (steps.state = 'running' AND steps.kind IN ('step', 'poll')))),
withdrawn AS (
  UPDATE relight.decisions SET state = 'withdrawn', decided_at = r.at
    FROM given AS r WHERE decisions.job_id = r.job_id AND decisions.state = 'open')
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
-- A child that an operator retries although its parent has ended lives on its own. What ends here leaves nothing waiting.
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
         issues = CASE WHEN r.target = 'queued' THEN NULL ELSE jobs.issues END,
         detached = jobs.detached
                    OR (r.source IN ('failed', 'poisoned')
                        AND EXISTS (SELECT 1 FROM relight.jobs AS p
                                     WHERE p.job_id = jobs.parent_job_id AND p.completed_at IS NOT NULL)),
         completed_at = CASE WHEN r.target IN ('failed', 'cancelled', 'poisoned') THEN r.at END
    FROM given AS r
   WHERE jobs.job_id = r.job_id AND (jobs.state = r.source) IS TRUE AND (r.begun IS NULL OR jobs.begun = r.begun)
     AND (r.source_reason IS NULL OR jobs.status_reason = r.source_reason)
  RETURNING 1),
left_behind AS (
  UPDATE relight.steps SET state = CASE steps.state WHEN 'waiting' THEN 'abandoned' ELSE 'in_doubt' END,
                           ended_at = CASE steps.state WHEN 'waiting' THEN r.at ELSE steps.ended_at END
    FROM given AS r
   WHERE steps.job_id = r.job_id
     AND ((r.target IN ('failed', 'cancelled', 'poisoned') AND steps.state = 'waiting')
          OR (r.source = 'running' AND steps.state = 'running' AND steps.kind IN ('step', 'poll')))),
withdrawn AS (
  UPDATE relight.decisions SET state = 'withdrawn', decided_at = r.at
    FROM given AS r
   WHERE r.target IN ('failed', 'cancelled', 'poisoned') AND decisions.job_id = r.job_id AND decisions.state = 'open')
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'move_jobs');

-- name: reopen_steps
-- A child's end that was read is read again: the child may have been retried since. So are the start of children that ended
-- with their parent, and a wait that timed out.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id, value->>1 AS step_key FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  UPDATE relight.steps SET state = 'backoff', until = CASE kind WHEN 'sleep' THEN until ELSE 0 END, try_number = 0,
                           ended_at = NULL, outcome = CASE WHEN kind IN ('step', 'poll') THEN outcome END
    FROM given AS r
   WHERE steps.job_id = r.job_id AND steps.step_key = r.step_key
     AND (steps.state IN ('failed', 'abandoned') OR steps.kind IN ('child', 'child_result', 'signal', 'external', 'ask'))
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

-- name: expect_orphans
-- After the moves: a parent that this batch retries has not ended. Both rows are locked.
WITH given AS MATERIALIZED (
  SELECT value->>0 AS job_id FROM jsonb_array_elements(:rows::jsonb)),
done AS (
  SELECT 1 FROM given AS r
   WHERE (SELECT p.completed_at FROM relight.jobs AS p
           WHERE p.job_id = (SELECT c.parent_job_id FROM relight.jobs AS c WHERE c.job_id = r.job_id)) IS NOT NULL)
SELECT relight.must((SELECT count(*) FROM done) = (SELECT count(*) FROM given), 'expect_orphans');
