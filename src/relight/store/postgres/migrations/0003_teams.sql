-- Teams: whose turn it is between partition keys, how often a queue may start, who defined a queue and who overrode it,
-- and jobs whose next run accepts that code and record differ.

-- Claimable jobs of one queue and priority lie side by side by partition key, so that each key's first is one probe away.
-- Jobs without a key are one partition, the empty one: alone in a queue they lie as before.
DROP INDEX relight.jobs_claimable;
CREATE INDEX jobs_claimable ON relight.jobs (queue, priority DESC, coalesce(partition_key, ''), ready_at NULLS FIRST, job_id) WHERE claimable;
-- Whether a queue has keys at all: only jobs with one are in it.
CREATE INDEX jobs_partitioned ON relight.jobs (queue) WHERE claimable AND partition_key IS NOT NULL;
ALTER TABLE relight.jobs ADD COLUMN accepting boolean NOT NULL DEFAULT false;

-- Which partition key of a queue was served last, at each priority: the next claim begins behind it.
CREATE TABLE relight.turns (
  queue         text COLLATE "C" NOT NULL,
  priority      bigint NOT NULL,
  partition_key text COLLATE "C" NOT NULL,
  PRIMARY KEY (queue, priority)
);

-- The last starts of a queue that has a rate, numbered without gaps: start k is refused while start k - n is in its window.
CREATE TABLE relight.rate_starts (
  queue      text COLLATE "C" NOT NULL,
  number     bigint NOT NULL,
  started_at bigint NOT NULL,
  PRIMARY KEY (queue, number)
);

-- A queue's definition in code (slots, per_engine_slots, priority, rate) with who gave it, the definition before it, and
-- what an operator put in its place. ``revision`` counts every change: what was decided under another one is refused.
ALTER TABLE relight.queues ADD COLUMN defined_by text;
ALTER TABLE relight.queues ADD COLUMN defined_at bigint;
ALTER TABLE relight.queues ADD COLUMN previous text;
ALTER TABLE relight.queues ADD COLUMN override text;
ALTER TABLE relight.queues ADD COLUMN override_by text;
ALTER TABLE relight.queues ADD COLUMN revision bigint NOT NULL DEFAULT 1;
UPDATE relight.queues SET defined_by = 'an engine', defined_at = updated_at;
