-- Teams: whose turn it is between partition keys, how often a queue may start, who defined a queue and who overrode it,
-- and jobs whose next run accepts that code and record differ.

-- Claimable jobs of one queue and priority lie side by side by partition key, so that each key's first is one probe away.
-- Jobs without a key are one partition, the empty one: alone in a queue they lie as before.
DROP INDEX jobs_claimable;
CREATE INDEX jobs_claimable ON jobs (queue, priority DESC, coalesce(partition_key, ''), ready_at, job_id) WHERE claimable = 1;
-- Whether a queue has keys at all: only jobs with one are in it.
CREATE INDEX jobs_partitioned ON jobs (queue) WHERE claimable = 1 AND partition_key IS NOT NULL;
ALTER TABLE jobs ADD COLUMN accepting INTEGER NOT NULL DEFAULT 0;

-- Which partition key of a queue was served last, at each priority: the next claim begins behind it.
CREATE TABLE turns (
  queue         TEXT NOT NULL,
  priority      INTEGER NOT NULL,
  partition_key TEXT NOT NULL,
  PRIMARY KEY (queue, priority)
) STRICT, WITHOUT ROWID;

-- The last starts of a queue that has a rate, numbered without gaps: start k is refused while start k - n is in its window.
CREATE TABLE rate_starts (
  queue      TEXT NOT NULL,
  number     INTEGER NOT NULL,
  started_at INTEGER NOT NULL,
  PRIMARY KEY (queue, number)
) STRICT, WITHOUT ROWID;

-- A queue's definition in code (slots, per_engine_slots, priority, rate) with who gave it, the definition before it, and
-- what an operator put in its place. ``revision`` counts every change: what was decided under another one is refused.
ALTER TABLE queues ADD COLUMN defined_by TEXT;
ALTER TABLE queues ADD COLUMN defined_at INTEGER;
ALTER TABLE queues ADD COLUMN previous TEXT;
ALTER TABLE queues ADD COLUMN override TEXT;
ALTER TABLE queues ADD COLUMN override_by TEXT;
ALTER TABLE queues ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
UPDATE queues SET defined_by = 'an engine', defined_at = updated_at;
