-- Every read, by name, the same as for SQLite. Each gives one row with one column: a JSON array of row arrays.
-- `relight.` stands for the store's schema; `relight.job_json` and the like are the selects of schema.sql, put in where
-- they are named. Lists are parameters of JSON text, turned into an array before the plan looks for it in an index.

-- name: job
-- One row by primary key.
SELECT coalesce(json_agg(row), '[]') FROM relight.job_json AS job_json WHERE job_id = :job_id;

-- name: job_heads
-- Several rows by primary key, without payloads.
SELECT coalesce(json_agg(row), '[]') FROM relight.job_head_json AS job_head_json
 WHERE job_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:job_ids::jsonb)));

-- name: job_by_key
-- The unique index jobs_key.
SELECT coalesce(json_agg(row), '[]') FROM relight.job_json AS job_json
 WHERE kind = :kind AND idempotency_key = :idempotency_key;

-- name: jobs_by_keys
-- The unique index jobs_key, many keys of one kind.
SELECT coalesce(json_agg(row), '[]') FROM relight.job_head_json AS job_head_json
 WHERE kind = :kind AND idempotency_key = ANY (ARRAY(SELECT jsonb_array_elements_text(:keys::jsonb)));

-- name: job_ids_ending
-- A scan of the primary key's index: ids are typed by their end. At most :limit are told.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT (job_id) AS row FROM relight.jobs
   WHERE right(job_id, length(:ending::text)) = :ending ORDER BY job_id DESC LIMIT :limit) AS found;

-- name: jobs_page
-- The newest jobs before an id: the primary key backwards.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.job_head_json AS job_head_json
   WHERE job_id < :before AND (:queue::text IS NULL OR queue = :queue) AND created_at >= :since
     AND coalesce(tags::jsonb, '{}') @> :tags::jsonb
   ORDER BY job_id DESC LIMIT :limit) AS found;

-- name: jobs_page_of_kind
-- As jobs_page, on jobs_by_kind.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.job_head_json AS job_head_json
   WHERE kind = :kind AND job_id < :before AND (:queue::text IS NULL OR queue = :queue) AND created_at >= :since
     AND coalesce(tags::jsonb, '{}') @> :tags::jsonb
   ORDER BY job_id DESC LIMIT :limit) AS found;

-- name: jobs_page_in_state
-- As jobs_page, on jobs_by_state.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.job_head_json AS job_head_json
   WHERE state = :state AND job_id < :before AND (:kind::text IS NULL OR kind = :kind)
     AND (:queue::text IS NULL OR queue = :queue) AND created_at >= :since
     AND coalesce(tags::jsonb, '{}') @> :tags::jsonb
   ORDER BY job_id DESC LIMIT :limit) AS found;

-- name: count_in_states
-- Counted on jobs_by_state.
SELECT coalesce(json_agg(json_build_array(state, n)), '[]') FROM (
  SELECT state, count(*) AS n FROM relight.jobs GROUP BY state ORDER BY state) AS found;

-- name: claimable_queues
-- A loose scan of jobs_claimable: one probe for each queue that has something to claim.
WITH RECURSIVE q (queue) AS (
  SELECT min(queue) FROM relight.jobs WHERE claimable
  UNION ALL
  SELECT (SELECT min(jobs.queue) FROM relight.jobs WHERE claimable AND jobs.queue > q.queue) FROM q WHERE q.queue IS NOT NULL)
SELECT coalesce(json_agg(queue), '[]') FROM q WHERE queue IS NOT NULL;

-- name: partitioned_queues
-- A loose scan of jobs_partitioned, which has only jobs with a partition key.
WITH RECURSIVE q (queue) AS (
  SELECT min(queue) FROM relight.jobs WHERE claimable AND partition_key IS NOT NULL
  UNION ALL
  SELECT (SELECT min(jobs.queue) FROM relight.jobs WHERE claimable AND partition_key IS NOT NULL AND jobs.queue > q.queue)
    FROM q WHERE q.queue IS NOT NULL)
SELECT coalesce(json_agg(queue), '[]') FROM q WHERE queue IS NOT NULL;

-- name: priority_below
-- One probe of jobs_claimable; what this engine cannot take is passed over.
SELECT json_build_array((SELECT priority FROM relight.jobs AS j
   WHERE claimable AND queue = :queue AND priority < :below
     AND kind = ANY (ARRAY(SELECT jsonb_array_elements_text(:kinds::jsonb)))
     AND (NOT begun OR :versions::text IS NULL OR jsonb_build_array(kind, version) = ANY (ARRAY(SELECT jsonb_array_elements_text(:versions::jsonb)::jsonb)))
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
   ORDER BY priority DESC LIMIT 1));

-- name: partitions_in_turn
-- A loose scan of jobs_claimable from behind the partition key that was served last, and round: one probe for each key.
WITH RECURSIVE
  served (part) AS (
    SELECT coalesce((SELECT partition_key FROM relight.turns WHERE queue = :queue AND priority = :priority), '')),
  behind (part, n) AS (
    SELECT part, 0 FROM served
    UNION ALL
    SELECT (SELECT coalesce(j.partition_key, '') FROM relight.jobs AS j
             WHERE j.claimable AND j.queue = :queue AND j.priority = :priority
               AND coalesce(j.partition_key, '') > behind.part
               AND j.kind = ANY (ARRAY(SELECT jsonb_array_elements_text(:kinds::jsonb)))
               AND (NOT j.begun OR :versions::text IS NULL OR jsonb_build_array(j.kind, j.version) = ANY (ARRAY(SELECT jsonb_array_elements_text(:versions::jsonb)::jsonb)))
               AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
             ORDER BY coalesce(j.partition_key, '') LIMIT 1), n + 1
      FROM behind WHERE part IS NOT NULL AND n < :limit),
  before (part, n) AS (
    SELECT (SELECT coalesce(j.partition_key, '') FROM relight.jobs AS j
             WHERE j.claimable AND j.queue = :queue AND j.priority = :priority
               AND coalesce(j.partition_key, '') <= (SELECT part FROM served)
               AND j.kind = ANY (ARRAY(SELECT jsonb_array_elements_text(:kinds::jsonb)))
               AND (NOT j.begun OR :versions::text IS NULL OR jsonb_build_array(j.kind, j.version) = ANY (ARRAY(SELECT jsonb_array_elements_text(:versions::jsonb)::jsonb)))
               AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
             ORDER BY coalesce(j.partition_key, '') LIMIT 1), 1
    UNION ALL
    SELECT (SELECT coalesce(j.partition_key, '') FROM relight.jobs AS j
             WHERE j.claimable AND j.queue = :queue AND j.priority = :priority
               AND coalesce(j.partition_key, '') > before.part
               AND coalesce(j.partition_key, '') <= (SELECT part FROM served)
               AND j.kind = ANY (ARRAY(SELECT jsonb_array_elements_text(:kinds::jsonb)))
               AND (NOT j.begun OR :versions::text IS NULL OR jsonb_build_array(j.kind, j.version) = ANY (ARRAY(SELECT jsonb_array_elements_text(:versions::jsonb)::jsonb)))
               AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
             ORDER BY coalesce(j.partition_key, '') LIMIT 1), n + 1
      FROM before WHERE part IS NOT NULL AND n < :limit)
SELECT coalesce(json_agg(part), '[]') FROM (
  SELECT part FROM (SELECT part, n, 0 AS round FROM behind WHERE n > 0 UNION ALL SELECT part, n, 1 FROM before) AS both_ways
   WHERE part IS NOT NULL ORDER BY round, n LIMIT :limit) AS found;

-- name: claimable_of
-- For each of some partition keys its first jobs, in the order of jobs_claimable, which has them side by side.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT j.row FROM jsonb_array_elements_text(:parts::jsonb) WITH ORDINALITY AS p (value, key)
    CROSS JOIN LATERAL (
        SELECT f.job_id FROM relight.jobs AS f
         WHERE f.claimable AND f.queue = :queue AND f.priority = :priority AND coalesce(f.partition_key, '') = p.value
           AND f.kind = ANY (ARRAY(SELECT jsonb_array_elements_text(:kinds::jsonb)))
           AND (NOT f.begun OR :versions::text IS NULL OR jsonb_build_array(f.kind, f.version) = ANY (ARRAY(SELECT jsonb_array_elements_text(:versions::jsonb)::jsonb)))
           AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = f.job_id AND q.released_at IS NULL)
         ORDER BY f.ready_at NULLS FIRST, f.job_id LIMIT :each) AS first
    JOIN relight.job_json AS j ON j.job_id = first.job_id
   ORDER BY p.key, j.ready_at NULLS FIRST, j.job_id) AS found;

-- name: rate_window
-- The primary key of rate_starts: its end, and the first of those that the next starts have to leave behind.
SELECT json_build_array(coalesce((SELECT min(number) FROM relight.rate_starts
                             WHERE queue = :queue
                               AND number > (SELECT max(number) FROM relight.rate_starts WHERE queue = :queue) - :n), 0),
                  coalesce((SELECT max(number) FROM relight.rate_starts WHERE queue = :queue), 0),
                  coalesce((SELECT started_at FROM relight.rate_starts WHERE queue = :queue ORDER BY number DESC LIMIT 1), 0),
                  (SELECT coalesce(json_agg(started_at), '[]') FROM (
                    SELECT started_at FROM relight.rate_starts
                     WHERE queue = :queue AND number > (SELECT max(number) FROM relight.rate_starts WHERE queue = :queue) - :n
                     ORDER BY number LIMIT :limit) AS starts));

-- name: claimable
-- jobs_claimable in its own order, where no job has a partition key; kinds that this engine does not know are passed over,
-- and jobs that began under versions that it does not have (:versions holds JSON arrays as texts; NULL: any). What is
-- claimable is due: that was
-- decided when it became so, and no clock that is set back later takes it away again.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.job_json AS j
   WHERE claimable AND queue = :queue
     AND kind = ANY (ARRAY(SELECT jsonb_array_elements_text(:kinds::jsonb)))
     AND (NOT begun OR :versions::text IS NULL OR jsonb_build_array(kind, version) = ANY (ARRAY(SELECT jsonb_array_elements_text(:versions::jsonb)::jsonb)))
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
   ORDER BY priority DESC, coalesce(partition_key, ''), ready_at NULLS FIRST, job_id LIMIT :limit) AS found;

-- name: begun_versions
-- How many jobs that have begun and not ended there are of each version of each kind; jobs by state, on jobs_by_state.
SELECT coalesce(json_agg(json_build_array(kind, version, n)), '[]') FROM (
  SELECT kind, version, count(*) AS n FROM relight.jobs
   WHERE state IN ('queued', 'running', 'stalled', 'awaiting_user', 'awaiting_validation') AND begun
   GROUP BY kind, version ORDER BY kind, version NULLS FIRST) AS found;

-- name: count_mismatched
-- Jobs that are stopped because code and record differ; on jobs_by_state.
SELECT json_build_array(count(*)) FROM relight.jobs
 WHERE state = 'awaiting_user' AND status_reason LIKE 'history_mismatch%';

-- name: claimable_ids
-- As claimable, ids only: used to find the one row that cannot be read.
SELECT coalesce(json_agg(job_id), '[]') FROM (
  SELECT job_id FROM relight.jobs AS j
   WHERE claimable AND queue = :queue
     AND kind = ANY (ARRAY(SELECT jsonb_array_elements_text(:kinds::jsonb)))
     AND (NOT begun OR :versions::text IS NULL OR jsonb_build_array(kind, version) = ANY (ARRAY(SELECT jsonb_array_elements_text(:versions::jsonb)::jsonb)))
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
   ORDER BY priority DESC, coalesce(partition_key, ''), ready_at NULLS FIRST, job_id LIMIT :limit) AS found;

-- name: queue_load
-- Running jobs of a queue by engine, on jobs_running_in; what is set aside holds no slot.
SELECT coalesce(json_agg(json_build_array(engine_id, n)), '[]') FROM (
  SELECT runs.engine_id, count(*) AS n FROM relight.jobs JOIN relight.runs ON runs.run_id = jobs.run_id
   WHERE jobs.state = 'running' AND jobs.queue = :queue
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = jobs.job_id AND q.released_at IS NULL)
   GROUP BY runs.engine_id) AS found;

-- name: slot_holders
-- Running jobs of a queue, the oldest first.
SELECT coalesce(json_agg(json_build_array(job_id, updated_at)), '[]') FROM (
  SELECT job_id, updated_at FROM relight.jobs WHERE state = 'running' AND queue = :queue ORDER BY updated_at LIMIT :limit) AS found;

-- name: ahead_in_line
-- How many claimable jobs of the queue come before this one; of its priority, those of its own partition key.
SELECT json_build_array(count(*)) FROM relight.jobs
 WHERE claimable AND queue = :queue
   AND (priority > :priority OR (priority = :priority AND coalesce(partition_key, '') = :part AND (ready_at < :ready_at OR (ready_at = :ready_at AND job_id < :job_id))));

-- name: next_due
-- The first timer of a job put away, and the first deadline: two index probes. Quarantined jobs have neither.
SELECT json_build_array((SELECT ready_at FROM relight.jobs AS j
                    WHERE NOT claimable AND ready_at IS NOT NULL
                      AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
                    ORDER BY ready_at LIMIT 1),
                  (SELECT deadline_at FROM relight.jobs AS j
                    WHERE deadline_at IS NOT NULL AND completed_at IS NULL AND cancel_code IS NULL
                      AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
                    ORDER BY deadline_at LIMIT 1));

-- name: due_questions
-- Jobs that await a person beyond their time limit.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.job_head_json AS j
   WHERE NOT claimable AND ready_at IS NOT NULL AND ready_at <= :now AND state = 'awaiting_user'
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
   ORDER BY ready_at LIMIT :limit) AS found;

-- name: past_deadline
-- Jobs beyond their deadline that nobody has told yet.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.job_head_json AS j
   WHERE deadline_at IS NOT NULL AND completed_at IS NULL AND deadline_at <= :now AND cancel_code IS NULL
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
   ORDER BY deadline_at LIMIT :limit) AS found;

-- name: stalled
-- Stalled jobs after an id, on jobs_by_state; quarantined ones are left out.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.job_head_json AS j
   WHERE state = 'stalled' AND job_id > :after
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
   ORDER BY job_id LIMIT :limit) AS found;

-- name: orphans
-- Children whose parent has ended and who were neither detached nor told.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT c.row FROM relight.job_head_json AS c JOIN relight.jobs AS p ON p.job_id = c.parent_job_id
   WHERE c.parent_job_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:parent_ids::jsonb))) AND c.completed_at IS NULL AND NOT c.detached
     AND c.cancel_code IS NULL AND p.completed_at IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = c.job_id AND q.released_at IS NULL)
   ORDER BY c.job_id LIMIT :limit) AS found;

-- name: open_parents
-- Ended parents that still have children which nobody told (found again after a crash).
SELECT coalesce(json_agg(job_id), '[]') FROM (
  SELECT DISTINCT p.job_id FROM relight.jobs AS c JOIN relight.jobs AS p ON p.job_id = c.parent_job_id
   WHERE c.parent_job_id IS NOT NULL AND c.completed_at IS NULL AND NOT c.detached AND c.cancel_code IS NULL
     AND c.state IN ('queued', 'running', 'stalled', 'awaiting_user') AND p.completed_at IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = c.job_id AND q.released_at IS NULL) LIMIT :limit) AS found;

-- name: attention
-- Of the jobs running here: which were asked to end, which no longer run, and what they may be waiting for that has come.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT json_build_array(job_id, run_id, state, cancel_code, cancel_reason, cancel_by) AS row FROM relight.jobs
   WHERE job_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:job_ids::jsonb))) AND (cancel_code IS NOT NULL OR state <> 'running')) AS found;

-- name: arrived
-- Of the waits open here ([job_id, kind, waits_for]): those whose condition is met. (decisions has a column "value", too.)
SELECT coalesce(json_agg(json_build_array(job_id, waits_for)), '[]') FROM (
  SELECT w.value->>0 AS job_id, w.value->>2 AS waits_for FROM jsonb_array_elements(:waits::jsonb) AS w (value)
   WHERE CASE w.value->>1
     WHEN 'signal' THEN EXISTS (SELECT 1 FROM relight.signals AS g WHERE g.job_id = w.value->>0 AND g.name = w.value->>2 AND g.read_by IS NULL)
     WHEN 'ask' THEN EXISTS (SELECT 1 FROM relight.decisions AS d WHERE d.decision_id = w.value->>2 AND d.state <> 'open')
     WHEN 'child_result' THEN EXISTS (SELECT 1 FROM relight.jobs AS c WHERE c.job_id = w.value->>2 AND c.completed_at IS NOT NULL)
     WHEN 'external' THEN EXISTS (SELECT 1 FROM relight.tokens AS t WHERE t.token = w.value->>2 AND t.state <> 'open')
     ELSE false END) AS found;

-- name: runs
-- All attempts at a job, in their order.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.run_json AS run_json WHERE job_id = :job_id ORDER BY started_at, run_id) AS found;

-- name: steps
-- Everything recorded in a job, in order of beginning.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.step_json AS step_json WHERE job_id = :job_id ORDER BY begun_at, step_key) AS found;

-- name: steps_of
-- Everything recorded in several jobs.
SELECT coalesce(json_agg(row), '[]') FROM relight.step_json AS step_json
 WHERE job_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:job_ids::jsonb)));

-- name: signals
-- A job's messages, first in, first out.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.signal_json AS signal_json WHERE job_id = :job_id ORDER BY seq) AS found;

-- name: first_unread
-- The first unread message of some names: the first of each, on signals_by_job, and of those the earliest.
SELECT coalesce(json_agg(row), '[]') FROM relight.signal_json AS signal_json
 WHERE seq = (SELECT min((SELECT g.seq FROM relight.signals AS g
                           WHERE g.job_id = :job_id AND g.name = n.value AND g.read_by IS NULL ORDER BY g.seq LIMIT 1))
                FROM jsonb_array_elements_text(:names::jsonb) AS n (value));

-- name: waiting_for
-- A job's open waits for something, on steps_waiting.
SELECT coalesce(json_agg(row), '[]') FROM relight.step_json AS step_json
 WHERE waits_for = :waits_for AND job_id = :job_id AND state = 'waiting';

-- name: token
-- One token by primary key.
SELECT coalesce(json_agg(row), '[]') FROM relight.token_json AS token_json WHERE token = :token;

-- name: tokens
-- A job's tokens in the order in which they were made, on tokens_by_job.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.token_json AS token_json WHERE job_id = :job_id ORDER BY created_at, token) AS found;

-- name: published
-- A value that a job made readable, by primary key.
SELECT coalesce(json_agg(value), '[]') FROM relight.published WHERE job_id = :job_id AND name = :name;

-- name: signal_by_key
-- A message that was sent before under the same key.
SELECT coalesce(json_agg(row), '[]') FROM relight.signal_json AS signal_json
 WHERE job_id = :job_id AND name = :name AND idempotency_key = :idempotency_key;

-- name: decisions
-- A job's questions, in the order asked.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.decision_json AS decision_json WHERE job_id = :job_id ORDER BY asked_at, decision_id) AS found;

-- name: decision
-- One question by primary key.
SELECT coalesce(json_agg(row), '[]') FROM relight.decision_json AS decision_json WHERE decision_id = :decision_id;

-- name: engines
-- Writers of one role before an id, the newest first: the primary key backwards.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.engine_json AS engine_json WHERE role = :role AND engine_id < :before ORDER BY engine_id DESC LIMIT :limit) AS found;

-- name: engine
-- One writer by primary key.
SELECT coalesce(json_agg(row), '[]') FROM relight.engine_json AS engine_json WHERE engine_id = :engine_id;

-- name: engines_to_judge
-- Engines still marked live or silent, and any that has left runs running.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.engine_json AS engine_json
   WHERE engine_id IN (SELECT engine_id FROM relight.engines WHERE state IN ('live', 'silent') AND role = 'engine'
                       UNION
                       SELECT engine_id FROM relight.runs WHERE state = 'running')
   ORDER BY engine_id) AS found;

-- name: running_of
-- What recovery needs of an engine's running runs: ids only, no payload is read. On runs_running.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT json_build_array(r.run_id, r.job_id, r.engine_id, j.trace_id,
           (SELECT coalesce(json_agg(s.step_key), '[]') FROM relight.steps AS s
                  WHERE s.job_id = r.job_id AND s.state IN ('running', 'in_doubt') AND s.kind IN ('step', 'poll'))) AS row
    FROM relight.runs AS r LEFT JOIN relight.jobs AS j ON j.job_id = r.job_id
   WHERE r.engine_id = :engine_id AND r.state = 'running' AND r.run_id > :after
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = r.job_id AND q.released_at IS NULL)
   ORDER BY r.run_id LIMIT :limit) AS found;

-- name: count_running_of_dead
-- What a gate still waits for.
SELECT json_build_array(count(*)) FROM relight.runs
 WHERE state = 'running'
   AND engine_id IN (SELECT engine_id FROM relight.engines WHERE state IN ('dead', 'silent'))
   AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = runs.job_id AND q.released_at IS NULL);

-- name: count_running_of
-- Running runs of several engines.
SELECT json_build_array(count(*)) FROM relight.runs
 WHERE state = 'running' AND engine_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:engine_ids::jsonb)))
   AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = runs.job_id AND q.released_at IS NULL);

-- name: adrift
-- Jobs after an id that say they run while no engine's run of theirs does: somebody's damage. On jobs_by_state.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT json_build_array(j.job_id, nullif(j.trace_id, '')) AS row FROM relight.jobs AS j
   WHERE j.state = 'running' AND j.job_id > :after
     AND NOT EXISTS (SELECT 1 FROM relight.runs AS r JOIN relight.engines AS e ON e.engine_id = r.engine_id
                      WHERE r.run_id = j.run_id AND r.job_id = j.job_id AND r.state = 'running')
     AND NOT EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL)
   ORDER BY j.job_id LIMIT :limit) AS found;

-- name: unnamed_heads
-- Chain heads that nobody has named yet, on engines_unnamed.
SELECT coalesce(json_agg(json_build_array(engine_id, head_seq, head_hash) ORDER BY engine_id), '[]')
  FROM relight.engines WHERE unnamed;

-- name: kinds
-- Every kind ever registered here.
SELECT coalesce(json_agg(json_build_array(kind, version)), '[]') FROM relight.kinds;

-- name: queues
-- Every queue defined here.
SELECT coalesce(json_agg(row), '[]') FROM relight.queue_json AS queue_json;

-- name: is_used
-- A scan until the first is found, asked only about a name that nobody defined, for an operator.
SELECT json_build_array(EXISTS (SELECT 1 FROM relight.jobs WHERE queue = :queue));

-- name: quarantine
-- Rows set aside and not released, or those of one job.
SELECT coalesce(json_agg(row), '[]') FROM relight.quarantine_json AS quarantine_json
 WHERE CASE WHEN :job_id::text IS NULL THEN released_at IS NULL ELSE job_id = :job_id::text END;

-- name: recoveries
-- Receipts before an id, the newest first: the primary key backwards.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.recovery_json AS recovery_json WHERE recovery_id < :before ORDER BY recovery_id DESC LIMIT :limit) AS found;

-- name: events
-- The log in commit order after a sequence number; filters come before the limit.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.event_json AS event_json
   WHERE seq > :after AND seq <= (SELECT relight.settled_seq(:after))
     AND (:types::text IS NULL OR type = ANY (ARRAY(SELECT jsonb_array_elements_text(:types::jsonb))))
     AND (:trace_id::text IS NULL OR trace_id = :trace_id) AND (:actor::text IS NULL OR actor = :actor)
   ORDER BY seq LIMIT :limit) AS found;

-- name: events_of_job
-- As events, on events_by_job.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.event_json AS event_json
   WHERE job_id = :job_id AND seq > :after AND seq <= (SELECT relight.settled_seq(:after))
     AND (:types::text IS NULL OR type = ANY (ARRAY(SELECT jsonb_array_elements_text(:types::jsonb))))
     AND (:trace_id::text IS NULL OR trace_id = :trace_id) AND (:actor::text IS NULL OR actor = :actor)
   ORDER BY seq LIMIT :limit) AS found;

-- name: events_of_writer
-- One writer's chain in its own order, on events_by_writer.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.event_json AS event_json WHERE writer_id = :writer_id AND writer_seq > :after ORDER BY writer_seq LIMIT :limit) AS found;

-- name: writers
-- Ids of all writers after one, for verify.
SELECT coalesce(json_agg(engine_id), '[]') FROM (
  SELECT engine_id FROM relight.engines WHERE engine_id > :after ORDER BY engine_id LIMIT :limit) AS found;

-- name: job_ids
-- Ids of all jobs after one, for verify.
SELECT coalesce(json_agg(job_id), '[]') FROM (
  SELECT job_id FROM relight.jobs WHERE job_id > :after ORDER BY job_id LIMIT :limit) AS found;

-- name: last_seq
-- The newest event.
SELECT json_build_array(relight.settled_seq(0));

-- name: batch_seq
-- How far a writer's batches reached the disk: settles a commit of unknown outcome.
SELECT json_build_array(batch_seq, state) FROM relight.engines WHERE engine_id = :engine_id;

-- name: blob
-- One value by its content's hash.
SELECT json_build_array(content) FROM relight.blobs WHERE blob_hash = :blob_hash;

-- What `relight verify` reads (recorder/). Pages in key order over whole tables; ids are read up to :upto, the last job of
-- the page of audit_jobs, all in one snapshot. Texts above :inline characters are left out.

-- name: audit_totals
-- How much there is, counted in one moment. Full scans of the smallest indexes.
SELECT json_build_array((SELECT count(*) FROM relight.jobs), (SELECT count(*) FROM relight.runs), (SELECT count(*) FROM relight.steps),
                  (SELECT count(*) FROM relight.events), (SELECT count(*) FROM relight.engines), (SELECT count(*) FROM relight.recoveries),
                  relight.settled_seq(0));

-- name: audit_writers
-- Writers after an id, each with the end of its chain as its row has it and as its events have it.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT json_build_array(w.engine_id, w.role, w.state, w.gate, w.gate_opened_at, w.ended_at, w.head_seq, w.head_hash,
                    coalesce(e.writer_seq, 0), coalesce(e.hash, '')) AS row
    FROM relight.engines AS w LEFT JOIN relight.events AS e
      ON e.writer_id = w.engine_id
     AND e.writer_seq = (SELECT max(writer_seq) FROM relight.events WHERE writer_id = w.engine_id)
   WHERE w.engine_id > :after ORDER BY w.engine_id LIMIT :limit) AS found;

-- name: audit_strangers
-- Writers of events that have no row, on events_by_writer.
SELECT coalesce(json_agg(writer_id), '[]') FROM (
  SELECT DISTINCT writer_id FROM relight.events
   WHERE writer_id NOT IN (SELECT engine_id FROM relight.engines) ORDER BY writer_id LIMIT :limit) AS found;

-- name: audit_named
-- Whether a writer's chain has this hash at or before a place; looked for backwards, since heads are named when fresh.
SELECT json_build_array(count(*)) FROM (
  SELECT 1 FROM relight.events
   WHERE writer_id = :writer_id AND writer_seq <= :upto AND hash = :hash ORDER BY writer_seq DESC LIMIT 1) AS found;

-- name: audit_twins
-- Keys that more than one job owns: none while the unique index jobs_key stands.
SELECT coalesce(json_agg(json_build_array(kind, idempotency_key, ids)), '[]') FROM (
  SELECT kind, idempotency_key, json_agg(job_id)::text AS ids FROM relight.jobs
   WHERE idempotency_key IS NOT NULL GROUP BY kind, idempotency_key HAVING count(*) > 1 LIMIT :limit) AS found;

-- name: audit_queues
-- The queues of some jobs, by primary key.
SELECT coalesce(json_agg(json_build_array(job_id, queue)), '[]') FROM relight.jobs
 WHERE job_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:job_ids::jsonb)));

-- name: audit_receipt
-- One receipt by primary key.
SELECT coalesce(json_agg(row), '[]') FROM relight.recovery_json AS recovery_json WHERE recovery_id = :recovery_id;

-- name: audit_jobs
-- Jobs after an id, with what bears on them from other rows. The parent's last event tells when it can have ended.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT json_build_array(
           j.job_id, j.kind, j.state, j.queue, j.claimable, j.begun, j.attempt, j.run_id, j.cancel_code, j.inputs_hash,
           CASE WHEN length(j.inputs) <= :inline THEN j.inputs END, j.outputs IS NOT NULL,
           CASE WHEN length(j.outputs) <= :inline THEN j.outputs END, j.trace_id, j.parent_job_id,
           j.detached, j.completed_at,
           EXISTS (SELECT 1 FROM relight.quarantine AS q WHERE q.job_id = j.job_id AND q.released_at IS NULL),
           p.state, (SELECT max(seq) FROM relight.events WHERE events.job_id = p.job_id), j.issues IS NOT NULL) AS row
    FROM relight.jobs AS j LEFT JOIN relight.jobs AS p ON p.job_id = j.parent_job_id
   WHERE j.job_id > :after ORDER BY j.job_id LIMIT :limit) AS found;

-- name: audit_runs
-- Runs after (job, run), with their engine's state.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT json_build_array(r.job_id, r.run_id, r.engine_id, r.attempt, r.state, r.ended_at IS NOT NULL, e.state, e.ended_at) AS row
    FROM relight.runs AS r LEFT JOIN relight.engines AS e ON e.engine_id = r.engine_id
   WHERE (r.job_id, r.run_id) > (:job_id, :run_id) AND r.job_id <= :upto ORDER BY r.job_id, r.run_id LIMIT :limit) AS found;

-- name: audit_steps
-- Steps after (job, key), in primary key order.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT json_build_array(s.job_id, s.step_key, s.run_id, s.kind, s.state, s.ended_at IS NOT NULL,
                    CASE WHEN length(s.outcome) <= :inline THEN s.outcome END,
                    (SELECT r.state FROM relight.runs AS r WHERE r.run_id = s.run_id)) AS row
    FROM relight.steps AS s
   WHERE (s.job_id, s.step_key) > (:job_id, :step_key) AND s.job_id <= :upto ORDER BY s.job_id, s.step_key LIMIT :limit) AS found;

-- name: audit_tokens
-- Tokens after (job, token), on tokens_by_job.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT json_build_array(job_id, token, step_key, state, ended_at IS NOT NULL,
                    CASE WHEN length(value) <= :inline THEN value END) AS row
    FROM relight.tokens
   WHERE (job_id, token) > (:job_id, :token) AND job_id <= :upto ORDER BY job_id, token LIMIT :limit) AS found;

-- name: audit_published
-- Published values after (job, name), in primary key order.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT json_build_array(job_id, name, CASE WHEN length(value) <= :inline THEN value END) AS row
    FROM relight.published
   WHERE (job_id, name) > (:job_id, :name) AND job_id <= :upto ORDER BY job_id, name LIMIT :limit) AS found;

-- name: audit_copies
-- Steps of some forks that no run of theirs made, beside the source's, both by primary key. A failed step that the source
-- opened again is no difference.
SELECT coalesce(json_agg(json_build_array(job_id, step_key)), '[]') FROM (
  SELECT c.job_id, c.step_key FROM jsonb_array_elements(:pairs::jsonb) AS p (value) JOIN relight.steps AS c ON c.job_id = p.value->>0
    LEFT JOIN relight.steps AS s ON s.job_id = p.value->>1 AND s.step_key = c.step_key
   WHERE NOT EXISTS (SELECT 1 FROM relight.runs WHERE runs.run_id = c.run_id AND runs.job_id = c.job_id)
     AND (s.job_id IS NULL
          OR (c.state = 'completed' AND (s.state <> 'completed' OR s.kind <> c.kind OR s.outcome IS DISTINCT FROM c.outcome))
          OR (c.state = 'failed' AND s.state = 'failed' AND s.error IS DISTINCT FROM c.error))
   LIMIT :limit) AS found;

-- name: audit_events
-- Events of jobs after (job, seq), on events_by_job.
SELECT coalesce(json_agg(row), '[]') FROM (
  SELECT row FROM relight.event_json AS event_json
   WHERE (job_id, seq) > (:job_id, :seq) AND job_id <= :upto ORDER BY job_id, seq LIMIT :limit) AS found;

-- name: job_facts
-- What explains several jobs, no payload among it: one array for each, in the field order of core/why_facts.py. Steps are
-- scanned by primary key; of a job's events only its last 500 are looked at, so the cost does not grow with its age.
SELECT coalesce(json_agg(facts), '[]') FROM (
  SELECT json_build_array(
    j.row,
    (SELECT coalesce(json_agg(row), '[]') FROM (
       SELECT row FROM relight.run_json AS run_json WHERE job_id = j.job_id ORDER BY started_at DESC, run_id DESC LIMIT 20) AS runs),
    (SELECT coalesce(json_agg(row), '[]') FROM (
       SELECT json_build_array(job_id, step_key, run_id, kind, name, state, try_number, policy, NULL, NULL, NULL, error, until,
                               waits_for, code_ref, note, begun_at, ended_at, beat_at, heartbeat_ms) AS row
         FROM relight.steps WHERE job_id = j.job_id AND state IN ('running', 'waiting', 'backoff', 'in_doubt', 'failed')
        ORDER BY state = 'failed', CASE state WHEN 'failed' THEN -ended_at ELSE begun_at END, step_key LIMIT 100) AS steps),
    (SELECT json_build_array(count(*), count(*) FILTER (WHERE state IN ('running', 'waiting', 'backoff', 'in_doubt')),
                             count(*) FILTER (WHERE state = 'failed'), max(greatest(begun_at, coalesce(ended_at, 0))))
       FROM relight.steps WHERE job_id = j.job_id),
    (SELECT coalesce(json_agg(row), '[]') FROM (
       SELECT json_build_array(decision_id, job_id, step_key, question, options, NULL, preview_hash, asked_at, expires_at, state,
                               choice, by, note, NULL, decided_at) AS row
         FROM relight.decisions WHERE job_id = j.job_id AND state = 'open' ORDER BY asked_at, decision_id LIMIT 20) AS decisions),
    (SELECT coalesce(json_agg(row), '[]') FROM (
       SELECT json_build_array(seq, signal_id, job_id, name, NULL, by, sent_at, read_by) AS row
         FROM relight.signals WHERE job_id = j.job_id AND read_by IS NULL ORDER BY seq LIMIT 20) AS signals),
    (SELECT coalesce(json_agg(row), '[]') FROM (
       SELECT json_build_array(token, job_id, step_key, name, NULL, created_at, expires_at, heartbeat_ms, beat_at, note, state,
                               NULL, NULL, by, ended_at) AS row
         FROM relight.tokens WHERE job_id = j.job_id AND state = 'open' ORDER BY created_at, token LIMIT 20) AS tokens),
    (SELECT row FROM relight.quarantine_json AS quarantine_json WHERE job_id = j.job_id),
    (SELECT coalesce(json_agg(row), '[]') FROM (
       SELECT json_build_array(event_id, type, ts, step_key, actor_id, payload) AS row
         FROM (SELECT * FROM relight.events WHERE job_id = j.job_id ORDER BY seq DESC LIMIT 500) AS last
        WHERE type = ANY (ARRAY(SELECT jsonb_array_elements_text(:types::jsonb))) ORDER BY seq DESC) AS told),
    (SELECT row FROM relight.engine_json AS engine_json
      WHERE engine_id = (SELECT engine_id FROM relight.runs WHERE runs.run_id = j.run_id))) AS facts
    FROM relight.job_head_json AS j WHERE j.job_id = ANY (ARRAY(SELECT jsonb_array_elements_text(:job_ids::jsonb)))) AS found;
