-- One batch = one INSERT into this view = one statement = one transaction.
--
-- apsw gives up the GIL at every step of a statement, so row-by-row writes beside busy Python threads would hold the
-- write lock for seconds. Here SQLite takes the lock, does everything in C, commits, and only then comes back to Python.
--
-- Each column is a JSON array of rows (arrays; positions as in core/changes.py), or NULL for an operation without rows.
-- jsonb_each, not json_each: with the latter each look at a row writes it out as text and parses it (measured: half the
-- time of a batch).
-- After each operation the number of rows changed is compared with the number of rows given; a difference aborts the
-- whole batch with 'refused:<operation>'. 'fenced' means that the writer's own row no longer lets it write.
--
-- The unary + keeps SQLite from starting at an index on that column: it would walk all queued or running jobs, in every
-- batch, even for an operation without rows, where it should look up the few that are named (measured: 32 ms a step
-- beside 40,000 queued jobs, 0.2 ms with it).
--
-- Operations are in groups, each a view with a trigger of its own, and a group without rows is passed over: looking at
-- thirty operations of which a lone step needs two took a fifth of its time. The order is that of core/changes.py.

CREATE TEMP VIEW batch AS SELECT
  NULL AS writer_id, NULL AS batch_seq, NULL AS head_seq, NULL AS head_hash, NULL AS schema_number,
  NULL AS open_writers, NULL AS name_heads, NULL AS new_jobs, NULL AS copy_steps, NULL AS start_runs,
  NULL AS queue_limits, NULL AS rewind_rates, NULL AS rate_limits, NULL AS take_turns, NULL AS begin_steps, NULL AS update_steps, NULL AS accept_arguments, NULL AS new_signals, NULL AS read_signals, NULL AS new_decisions,
  NULL AS close_decisions, NULL AS settle_steps, NULL AS stall_runs, NULL AS end_runs, NULL AS end_jobs, NULL AS put_away, NULL AS move_jobs,
  NULL AS reopen_steps, NULL AS wake_jobs, NULL AS cancel_jobs, NULL AS route_jobs, NULL AS expect_orphans, NULL AS wake_due, NULL AS judge_engines,
  NULL AS set_gates, NULL AS beats, NULL AS new_quarantines, NULL AS release_rows, NULL AS release_holds,
  NULL AS new_recoveries, NULL AS put_kinds, NULL AS put_queues, NULL AS set_queues, NULL AS set_progress, NULL AS note_steps,
  NULL AS new_tokens, NULL AS beat_tokens, NULL AS close_tokens, NULL AS put_published, NULL AS close_writers, NULL AS events;

CREATE TEMP TRIGGER apply_batch INSTEAD OF INSERT ON batch BEGIN

  INSERT INTO batch_opening
  SELECT NEW.open_writers
   WHERE NEW.open_writers IS NOT NULL;

  -- The fence: anything but one row, and nothing of this batch is written.
  UPDATE engines SET batch_seq = NEW.batch_seq, head_seq = NEW.head_seq, head_hash = NEW.head_hash
   WHERE engine_id = NEW.writer_id AND state = 'live' AND batch_seq = NEW.batch_seq - 1
     AND (SELECT value FROM meta WHERE key = 'schema') = NEW.schema_number;
  SELECT RAISE(ABORT, 'fenced') WHERE changes() <> 1;

  INSERT INTO batch_claims
  SELECT NEW.name_heads, NEW.new_jobs, NEW.start_runs, NEW.queue_limits
   WHERE coalesce(NEW.name_heads, NEW.new_jobs, NEW.start_runs, NEW.queue_limits) IS NOT NULL;
  INSERT INTO batch_teams
  SELECT NEW.copy_steps, NEW.rewind_rates, NEW.rate_limits, NEW.take_turns, NEW.accept_arguments
   WHERE coalesce(NEW.copy_steps, NEW.rewind_rates, NEW.rate_limits, NEW.take_turns, NEW.accept_arguments) IS NOT NULL;
  INSERT INTO batch_steps
  SELECT NEW.begin_steps, NEW.update_steps, NEW.set_progress, NEW.note_steps
   WHERE coalesce(NEW.begin_steps, NEW.update_steps, NEW.set_progress, NEW.note_steps) IS NOT NULL;
  INSERT INTO batch_outside
  SELECT NEW.new_tokens, NEW.beat_tokens, NEW.close_tokens, NEW.put_published
   WHERE coalesce(NEW.new_tokens, NEW.beat_tokens, NEW.close_tokens, NEW.put_published) IS NOT NULL;
  INSERT INTO batch_people
  SELECT NEW.new_signals, NEW.read_signals, NEW.new_decisions, NEW.close_decisions, NEW.settle_steps
   WHERE coalesce(NEW.new_signals, NEW.read_signals, NEW.new_decisions, NEW.close_decisions,
                  NEW.settle_steps) IS NOT NULL;
  INSERT INTO batch_ends
  SELECT NEW.stall_runs, NEW.end_runs, NEW.end_jobs, NEW.put_away, NEW.move_jobs, NEW.reopen_steps,
         NEW.wake_jobs, NEW.cancel_jobs, NEW.route_jobs, NEW.expect_orphans
   WHERE coalesce(NEW.stall_runs, NEW.end_runs, NEW.end_jobs, NEW.put_away, NEW.move_jobs, NEW.reopen_steps,
                  NEW.wake_jobs, NEW.cancel_jobs, NEW.route_jobs, NEW.expect_orphans) IS NOT NULL;
  INSERT INTO batch_upkeep
  SELECT NEW.writer_id, NEW.wake_due, NEW.judge_engines, NEW.set_gates, NEW.beats, NEW.new_quarantines,
         NEW.release_rows, NEW.release_holds, NEW.new_recoveries, NEW.put_kinds, NEW.put_queues, NEW.set_queues,
         NEW.close_writers
   WHERE coalesce(NEW.wake_due, NEW.judge_engines, NEW.set_gates, NEW.beats, NEW.new_quarantines, NEW.release_rows,
                  NEW.release_holds, NEW.new_recoveries, NEW.put_kinds, NEW.put_queues, NEW.set_queues,
                  NEW.close_writers) IS NOT NULL;

  INSERT INTO events (event_id, type, ts, actor, actor_id, trace_id, job_id, run_id, step_key, model_id, engine_id,
                      payload, writer_id, writer_seq, prev_hash, hash)
  SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9, value->>10,
         value->>11, value->>12, value->>13, value->>14, value->>15
    FROM jsonb_each(NEW.events);
END;

CREATE TEMP VIEW batch_opening AS SELECT
  NULL AS open_writers;
CREATE TEMP TRIGGER apply_opening INSTEAD OF INSERT ON batch_opening BEGIN

  INSERT INTO engines (engine_id, role, name, gate, nonce, host_id, boot_id, pid, version, lease_ms, started_at, kinds, queues)
  SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9,
         value->>11, value->>12, value->>13
    FROM jsonb_each(NEW.open_writers) WHERE true
      ON CONFLICT DO NOTHING;
  SELECT RAISE(ABORT, 'refused:open_writers') WHERE changes() <> coalesce(json_array_length(NEW.open_writers), 0);
  INSERT INTO beats (engine_id, beat_at, lease_until)
  SELECT value->>0, value->>11, value->>10 FROM jsonb_each(NEW.open_writers);
END;

CREATE TEMP VIEW batch_claims AS SELECT
  NULL AS name_heads, NULL AS new_jobs, NULL AS start_runs, NULL AS queue_limits;
CREATE TEMP TRIGGER apply_claims INSTEAD OF INSERT ON batch_claims BEGIN

  UPDATE engines SET named_seq = max(named_seq, r.head_seq)
    FROM (SELECT value->>0 AS engine_id, value->>1 AS head_seq FROM jsonb_each(NEW.name_heads)) AS r
   WHERE engines.engine_id = r.engine_id;

  -- A job of a parent that has ended is refused: nothing would ever wait for it or cancel it.
  INSERT INTO jobs (job_id, kind, version, state, status_reason, queue, priority, ready_at, claimable, on_stall, max_stalls,
                    deadline_at, idempotency_key, partition_key, inputs, inputs_hash, tags, trace_id,
                    parent_job_id, parent_step_key, detached, metrics, created_at, updated_at)
  SELECT value->>0, value->>1, value->>2, 'queued', value->>21, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8,
         value->>9, value->>10, value->>11, value->>12, value->>13, value->>14, value->>15,
         value->>16, value->>17, value->>18, value->>19, value->>20, value->>20
    FROM jsonb_each(NEW.new_jobs)
   WHERE value->>16 IS NULL OR EXISTS (SELECT 1 FROM jobs AS p WHERE p.job_id = value->>16 AND p.completed_at IS NULL)
      ON CONFLICT DO NOTHING;
  SELECT RAISE(ABORT, 'refused:new_jobs') WHERE changes() <> coalesce(json_array_length(NEW.new_jobs), 0);

  UPDATE jobs SET state = 'running', status_reason = 'claimed', claimable = 0, ready_at = NULL, begun = 1,
                  run_id = r.run_id, updated_at = r.at, version = r.version
    FROM (SELECT value->>0 AS job_id, value->>1 AS run_id, value->>2 AS engine_id, value->>3 AS attempt, value->>4 AS at,
                 value->>5 AS version, value->>6 AS terms
            FROM jsonb_each(NEW.start_runs)) AS r
   WHERE jobs.job_id = r.job_id AND +jobs.state = 'queued' AND +jobs.claimable = 1
     AND jobs.attempt = r.attempt AND (jobs.begun = 0 OR jobs.version IS r.version)
     AND (r.terms IS NULL OR r.terms = coalesce((SELECT revision FROM queues WHERE queues.queue = jobs.queue), 0))
     AND (SELECT gate FROM engines WHERE engine_id = r.engine_id) = 'open'
     AND NOT EXISTS (SELECT 1 FROM quarantine AS q WHERE q.job_id = r.job_id AND q.released_at IS NULL);
  SELECT RAISE(ABORT, 'refused:start_runs') WHERE changes() <> coalesce(json_array_length(NEW.start_runs), 0);
  INSERT INTO runs (run_id, job_id, engine_id, attempt, state, started_at)
  SELECT value->>1, value->>0, value->>2, value->>3, 'running', value->>4 FROM jsonb_each(NEW.start_runs);

  SELECT RAISE(ABORT, 'refused:queue_limits')
    FROM jsonb_each(NEW.queue_limits)
   WHERE value->>2 < (SELECT count(*) FROM jobs INDEXED BY jobs_running_in
                       WHERE jobs.state = 'running' AND jobs.queue = value->>0
                         AND NOT EXISTS (SELECT 1 FROM quarantine AS q WHERE q.job_id = jobs.job_id AND q.released_at IS NULL)
                         AND (value->>1 IS NULL
                              OR (SELECT engine_id FROM runs WHERE runs.run_id = jobs.run_id) = value->>1));
END;

CREATE TEMP VIEW batch_teams AS SELECT
  NULL AS copy_steps, NULL AS rewind_rates, NULL AS rate_limits, NULL AS take_turns, NULL AS accept_arguments;
CREATE TEMP TRIGGER apply_teams INSTEAD OF INSERT ON batch_teams BEGIN

  -- A fork's steps are finished where they come from, and stay the run's that made them.
  INSERT INTO steps (job_id, step_key, run_id, kind, name, state, try_number, policy, args_hashes, inputs, outcome, error,
                     until, waits_for, code_ref, note, begun_at, ended_at)
  SELECT r.value->>0, s.step_key, s.run_id, s.kind, s.name, s.state, s.try_number, s.policy, s.args_hashes, s.inputs,
         s.outcome, s.error, s.until, s.waits_for, s.code_ref, s.note, s.begun_at, s.ended_at
    FROM jsonb_each(NEW.copy_steps) AS r
    JOIN steps AS s ON s.job_id = r.value->>1 AND s.step_key = r.value->>2 AND s.state IN ('completed', 'failed', 'abandoned')
   ORDER BY r.key;
  SELECT RAISE(ABORT, 'refused:copy_steps') WHERE changes() <> coalesce(json_array_length(NEW.copy_steps), 0);

  -- Rates: starts of a queue are numbered, and start k is refused while start k - n lies less than the window before it. A
  -- queue's time does not go back, so a clock that was set back a little stands still for it. One that was set back by more
  -- than the window is noticed by whoever would claim, and what lies ahead of it counts as of then: so the rate is never
  -- exceeded, and nothing is frozen for ever. (Not in the claim itself: a refused batch would forget it.)
  UPDATE rate_starts SET started_at = r.at
    FROM (SELECT value->>0 AS queue, value->>1 AS at FROM jsonb_each(NEW.rewind_rates)) AS r
   WHERE rate_starts.queue = r.queue AND rate_starts.started_at > r.at;
  INSERT INTO rate_starts (queue, number, started_at)
  SELECT value->>0,
         coalesce((SELECT max(number) FROM rate_starts WHERE queue = value->>0), 0)
           + row_number() OVER (PARTITION BY value->>0 ORDER BY key),
         max(max(value->>3) OVER (PARTITION BY value->>0 ORDER BY key),
             coalesce((SELECT started_at FROM rate_starts WHERE queue = value->>0 ORDER BY number DESC LIMIT 1), 0))
    FROM jsonb_each(NEW.rate_limits);
  SELECT RAISE(ABORT, 'refused:rate_limits')
    FROM (SELECT value->>0 AS queue, value->>1 AS n, value->>2 AS per_ms,
                 (SELECT max(number) FROM rate_starts WHERE queue = value->>0) + 1
                   - row_number() OVER (PARTITION BY value->>0 ORDER BY key DESC) AS number
            FROM jsonb_each(NEW.rate_limits)) AS r
    JOIN rate_starts AS mine ON mine.queue = r.queue AND mine.number = r.number
    JOIN rate_starts AS nth ON nth.queue = r.queue AND nth.number = r.number - r.n
   WHERE nth.started_at > mine.started_at - r.per_ms;
  DELETE FROM rate_starts
   WHERE (queue, number) IN (
     SELECT old.queue, old.number
       FROM (SELECT value->>0 AS queue, max(value->>1) AS n FROM jsonb_each(NEW.rate_limits) GROUP BY 1) AS r
       JOIN rate_starts AS old ON old.queue = r.queue
        AND old.number <= (SELECT max(number) FROM rate_starts WHERE rate_starts.queue = r.queue) - r.n);

  -- Of several turns in one batch the last stands.
  INSERT INTO turns (queue, priority, partition_key)
  SELECT queue, priority, partition_key
    FROM (SELECT value->>0 AS queue, value->>1 AS priority, value->>2 AS partition_key, max(key)
            FROM jsonb_each(NEW.take_turns) GROUP BY 1, 2) WHERE true
      ON CONFLICT (queue, priority) DO UPDATE SET partition_key = excluded.partition_key;

  -- What a finished step was called with is rewritten only where an operator accepted it, in a run of the job itself.
  UPDATE steps SET args_hashes = r.args_hashes
    FROM (SELECT value->>0 AS job_id, value->>1 AS step_key, value->>2 AS run_id, value->>3 AS args_hashes
            FROM jsonb_each(NEW.accept_arguments)) AS r
   WHERE steps.job_id = r.job_id AND steps.step_key = r.step_key AND steps.state IN ('completed', 'failed', 'abandoned')
     AND EXISTS (SELECT 1 FROM runs WHERE runs.run_id = r.run_id AND runs.job_id = r.job_id AND runs.state = 'running')
     AND (SELECT accepting FROM jobs WHERE jobs.job_id = r.job_id);
  SELECT RAISE(ABORT, 'refused:accept_arguments') WHERE changes() <> coalesce(json_array_length(NEW.accept_arguments), 0);
END;

CREATE TEMP VIEW batch_steps AS SELECT
  NULL AS begin_steps, NULL AS update_steps, NULL AS set_progress, NULL AS note_steps;
CREATE TEMP TRIGGER apply_steps INSTEAD OF INSERT ON batch_steps BEGIN

  INSERT INTO steps (job_id, step_key, run_id, kind, name, state, try_number, policy, args_hashes, inputs, until, waits_for,
                     code_ref, begun_at, heartbeat_ms)
  SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7,
         value->>8, value->>9, value->>10, value->>11, value->>12, value->>13, value->>14
    FROM jsonb_each(NEW.begin_steps)
   WHERE EXISTS (SELECT 1 FROM runs WHERE runs.run_id = value->>2 AND runs.job_id = value->>0 AND runs.state = 'running')
      ON CONFLICT (job_id, step_key) DO UPDATE
     SET run_id = excluded.run_id, state = excluded.state, try_number = excluded.try_number, policy = excluded.policy,
         args_hashes = excluded.args_hashes, inputs = excluded.inputs, until = excluded.until,
         waits_for = excluded.waits_for, code_ref = excluded.code_ref, begun_at = excluded.begun_at,
         heartbeat_ms = excluded.heartbeat_ms, ended_at = NULL
   WHERE steps.state IN ('running', 'waiting', 'backoff', 'in_doubt');
  SELECT RAISE(ABORT, 'refused:begin_steps') WHERE changes() <> coalesce(json_array_length(NEW.begin_steps), 0);

  UPDATE steps SET state = r.state, try_number = r.try_number, outcome = r.outcome,
                   error = r.error, until = r.until, ended_at = r.ended_at, run_id = r.run_id
    FROM (SELECT value->>0 AS job_id, value->>1 AS step_key, value->>2 AS run_id, value->>3 AS state, value->>4 AS try_number,
                 value->>5 AS outcome, value->>6 AS error, value->>7 AS until, value->>8 AS ended_at
            FROM jsonb_each(NEW.update_steps)) AS r
   WHERE steps.job_id = r.job_id AND steps.step_key = r.step_key
     AND steps.state IN ('running', 'waiting', 'backoff', 'in_doubt')
     AND EXISTS (SELECT 1 FROM runs WHERE runs.run_id = r.run_id AND runs.job_id = r.job_id AND runs.state = 'running');
  SELECT RAISE(ABORT, 'refused:update_steps') WHERE changes() <> coalesce(json_array_length(NEW.update_steps), 0);

  -- Before runs end: what a job said last is kept. Of several words in one batch the last stands.
  UPDATE jobs SET progress = r.progress
    FROM (SELECT value->>0 AS job_id, value->>1 AS run_id, value->>2 AS progress, max(key)
            FROM jsonb_each(NEW.set_progress) GROUP BY 1, 2) AS r
   WHERE jobs.job_id = r.job_id AND jobs.run_id = r.run_id AND +jobs.state = 'running';

  UPDATE steps SET note = coalesce(r.note, steps.note), beat_at = r.at
    FROM (SELECT value->>0 AS job_id, value->>1 AS step_key, value->>2 AS run_id, value->>3 AS note, value->>4 AS at, max(key)
            FROM jsonb_each(NEW.note_steps) GROUP BY 1, 2, 3) AS r
   WHERE steps.job_id = r.job_id AND steps.step_key = r.step_key AND steps.run_id = r.run_id AND +steps.state = 'running';
END;

CREATE TEMP VIEW batch_outside AS SELECT
  NULL AS new_tokens, NULL AS beat_tokens, NULL AS close_tokens, NULL AS put_published;
CREATE TEMP TRIGGER apply_outside INSTEAD OF INSERT ON batch_outside BEGIN

  INSERT INTO tokens (token, job_id, step_key, name, type, created_at, expires_at, heartbeat_ms, beat_at)
  SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>5
    FROM jsonb_each(NEW.new_tokens) WHERE true
      ON CONFLICT DO NOTHING;
  SELECT RAISE(ABORT, 'refused:new_tokens') WHERE changes() <> coalesce(json_array_length(NEW.new_tokens), 0);

  -- A word about a token counts while the token is open, its time is not up, and its job has not ended. Of several in one
  -- batch the last time and the last note stand: a word without a note takes none away.
  UPDATE tokens SET beat_at = max(tokens.beat_at, r.at),
                    note = coalesce((SELECT b.value->>2 FROM jsonb_each(NEW.beat_tokens) AS b
                                      WHERE b.value->>0 = r.token AND b.value->>2 IS NOT NULL ORDER BY b.key DESC LIMIT 1),
                                    tokens.note)
    FROM (SELECT value->>0 AS token, value->>1 AS job_id, max(value->>3) AS at
            FROM jsonb_each(NEW.beat_tokens) GROUP BY 1, 2) AS r
   WHERE tokens.token = r.token AND tokens.job_id = r.job_id AND tokens.state = 'open'
     AND (tokens.expires_at IS NULL OR tokens.expires_at > r.at)
     AND EXISTS (SELECT 1 FROM jobs WHERE jobs.job_id = r.job_id AND jobs.completed_at IS NULL);
  SELECT RAISE(ABORT, 'refused:beat_tokens')
   WHERE changes() <> (SELECT count(DISTINCT value->>0) FROM jsonb_each(NEW.beat_tokens));

  UPDATE tokens SET state = r.state, value = r.value, error = r.error, by = r.by, ended_at = r.at
    FROM (SELECT value->>0 AS token, value->>1 AS job_id, value->>2 AS state, value->>3 AS value, value->>4 AS error,
                 value->>5 AS by, value->>6 AS at
            FROM jsonb_each(NEW.close_tokens)) AS r
   WHERE tokens.token = r.token AND tokens.job_id = r.job_id AND tokens.state = 'open'
     AND CASE r.state
           WHEN 'expired' THEN coalesce(tokens.expires_at <= r.at, 0) OR coalesce(tokens.beat_at + tokens.heartbeat_ms <= r.at, 0)
           ELSE tokens.expires_at IS NULL OR tokens.expires_at > r.at END
     AND EXISTS (SELECT 1 FROM jobs WHERE jobs.job_id = r.job_id AND jobs.completed_at IS NULL);
  SELECT RAISE(ABORT, 'refused:close_tokens') WHERE changes() <> coalesce(json_array_length(NEW.close_tokens), 0);

  INSERT INTO published (job_id, name, value, updated_at)
  SELECT value->>0, value->>2, value->>3, value->>4
    FROM jsonb_each(NEW.put_published)
   WHERE EXISTS (SELECT 1 FROM runs WHERE runs.run_id = value->>1 AND runs.job_id = value->>0 AND runs.state = 'running')
      ON CONFLICT (job_id, name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at;
  SELECT RAISE(ABORT, 'refused:put_published') WHERE changes() <> coalesce(json_array_length(NEW.put_published), 0);
END;

CREATE TEMP VIEW batch_people AS SELECT
  NULL AS new_signals, NULL AS read_signals, NULL AS new_decisions, NULL AS close_decisions, NULL AS settle_steps;
CREATE TEMP TRIGGER apply_people INSTEAD OF INSERT ON batch_people BEGIN

  INSERT INTO signals (signal_id, job_id, name, payload, by, idempotency_key, sent_at)
  SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6
    FROM jsonb_each(NEW.new_signals)
   WHERE EXISTS (SELECT 1 FROM jobs WHERE jobs.job_id = value->>1 AND jobs.completed_at IS NULL)
      ON CONFLICT DO NOTHING;
  SELECT RAISE(ABORT, 'refused:new_signals') WHERE changes() <> coalesce(json_array_length(NEW.new_signals), 0);

  UPDATE signals SET read_by = r.step_key
    FROM (SELECT value->>0 AS signal_id, value->>1 AS job_id, value->>2 AS step_key FROM jsonb_each(NEW.read_signals)) AS r
   WHERE signals.job_id = r.job_id AND signals.signal_id = r.signal_id AND signals.read_by IS NULL;
  SELECT RAISE(ABORT, 'refused:read_signals') WHERE changes() <> coalesce(json_array_length(NEW.read_signals), 0);

  INSERT INTO decisions (decision_id, job_id, step_key, question, options, preview, preview_hash, asked_at, expires_at)
  SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8
    FROM jsonb_each(NEW.new_decisions) WHERE true
      ON CONFLICT DO NOTHING;
  SELECT RAISE(ABORT, 'refused:new_decisions') WHERE changes() <> coalesce(json_array_length(NEW.new_decisions), 0);

  UPDATE decisions SET choice = r.choice, by = r.by, note = r.note, value = r.value, decided_at = r.at,
                       state = CASE WHEN r.expired THEN 'expired' WHEN r.choice IS NULL THEN 'withdrawn' ELSE 'given' END
    FROM (SELECT value->>0 AS decision_id, value->>1 AS job_id, value->>2 AS choice, value->>3 AS by, value->>4 AS note,
                 value->>5 AS at, value->>6 AS expired, value->>7 AS value
            FROM jsonb_each(NEW.close_decisions)) AS r
   WHERE decisions.decision_id = r.decision_id AND decisions.job_id = r.job_id AND decisions.state = 'open'
     AND (r.expired OR r.choice IS NULL OR decisions.expires_at IS NULL OR decisions.expires_at > r.at)
     AND EXISTS (SELECT 1 FROM jobs WHERE jobs.job_id = r.job_id AND jobs.completed_at IS NULL);
  SELECT RAISE(ABORT, 'refused:close_decisions') WHERE changes() <> coalesce(json_array_length(NEW.close_decisions), 0);

  UPDATE steps SET state = r.state, outcome = r.outcome, error = r.error,
                   until = CASE r.state WHEN 'backoff' THEN r.at END,
                   ended_at = CASE WHEN r.state <> 'backoff' THEN r.at END
    FROM (SELECT value->>0 AS job_id, value->>1 AS step_key, value->>2 AS state, value->>3 AS outcome, value->>4 AS error,
                 value->>5 AS at
            FROM jsonb_each(NEW.settle_steps)) AS r
   WHERE steps.job_id = r.job_id AND steps.step_key = r.step_key AND steps.state = 'in_doubt'
     AND EXISTS (SELECT 1 FROM jobs WHERE jobs.job_id = r.job_id AND jobs.state IN ('stalled', 'queued', 'awaiting_user'));
  SELECT RAISE(ABORT, 'refused:settle_steps') WHERE changes() <> coalesce(json_array_length(NEW.settle_steps), 0);
END;

CREATE TEMP VIEW batch_ends AS SELECT
  NULL AS stall_runs, NULL AS end_runs, NULL AS end_jobs, NULL AS put_away, NULL AS move_jobs, NULL AS reopen_steps,
  NULL AS wake_jobs, NULL AS cancel_jobs, NULL AS route_jobs, NULL AS expect_orphans;
CREATE TEMP TRIGGER apply_ends INSTEAD OF INSERT ON batch_ends BEGIN

  -- Recovery, and nothing else, stalls: the owner must be held dead or silent. Steps in flight are in doubt from here on.
  UPDATE runs SET state = 'stalled', reason = r.status_reason, ended_at = r.at
    FROM (SELECT value->>0 AS job_id, value->>1 AS run_id, value->>2 AS engine_id, value->>3 AS status_reason, value->>6 AS at
            FROM jsonb_each(NEW.stall_runs)) AS r
   WHERE runs.run_id = r.run_id AND runs.job_id = r.job_id AND runs.state = 'running' AND runs.engine_id = r.engine_id
     AND (SELECT state FROM engines WHERE engine_id = r.engine_id) IN ('dead', 'silent');
  SELECT RAISE(ABORT, 'refused:stall_runs') WHERE changes() <> coalesce(json_array_length(NEW.stall_runs), 0);
  -- A stall counts towards the crash-loop limit only without a new checkpoint since the last one.
  UPDATE jobs SET state = 'stalled', status_reason = r.status_reason, claimable = 0, ready_at = NULL, updated_at = r.at,
                  held_by = r.held_by,
                  stalls = CASE WHEN NOT r.counts THEN jobs.stalls
                                WHEN coalesce(jobs.stalled_at_checkpoint, -1) = r.checkpoints THEN jobs.stalls + 1 ELSE 1 END,
                  stalled_at_checkpoint = CASE WHEN r.counts THEN r.checkpoints ELSE jobs.stalled_at_checkpoint END
    FROM (SELECT value->>0 AS job_id, value->>1 AS run_id, value->>3 AS status_reason, value->>4 AS held_by,
                 value->>5 AS counts, value->>6 AS at,
                 CASE WHEN value->>5 THEN (SELECT count(*) FROM steps WHERE steps.job_id = value->>0 AND steps.state = 'completed')
                 END AS checkpoints
            FROM jsonb_each(NEW.stall_runs)) AS r
   WHERE jobs.job_id = r.job_id AND +jobs.state = 'running' AND jobs.run_id = r.run_id;
  SELECT RAISE(ABORT, 'refused:stall_runs') WHERE changes() <> coalesce(json_array_length(NEW.stall_runs), 0);
  UPDATE steps SET state = 'in_doubt'
    FROM (SELECT value->>0 AS job_id FROM jsonb_each(NEW.stall_runs)) AS r
   WHERE steps.job_id = r.job_id AND steps.state = 'running' AND steps.kind IN ('step', 'poll');

  UPDATE runs SET state = r.state, reason = r.reason, ended_at = r.at
    FROM (SELECT value->>0 AS run_id, value->>1 AS engine_id, value->>2 AS state, value->>3 AS reason, value->>4 AS at
            FROM jsonb_each(NEW.end_runs)) AS r
   WHERE runs.run_id = r.run_id AND runs.state = 'running' AND (r.engine_id IS NULL OR runs.engine_id = r.engine_id);
  SELECT RAISE(ABORT, 'refused:end_runs') WHERE changes() <> coalesce(json_array_length(NEW.end_runs), 0);

  UPDATE jobs SET state = r.state, status_reason = r.status_reason, outputs = r.outputs,
                  error = r.error, issues = r.issues, claimable = 0, ready_at = NULL,
                  updated_at = r.at, completed_at = r.at, probation = 0
    FROM (SELECT value->>0 AS job_id, value->>1 AS run_id, value->>2 AS state, value->>3 AS status_reason, value->>4 AS outputs,
                 value->>5 AS error, value->>6 AS issues, value->>7 AS at
            FROM jsonb_each(NEW.end_jobs)) AS r
   WHERE jobs.job_id = r.job_id AND +jobs.state = 'running' AND jobs.run_id = r.run_id;
  SELECT RAISE(ABORT, 'refused:end_jobs') WHERE changes() <> coalesce(json_array_length(NEW.end_jobs), 0);

  -- Putting away looks again, under the lock, at everything the job may wait for: no wake-up is lost. A job whose answer
  -- has come, or that was asked to end, is not put away for a person: refused, and its engine queues it instead, so that
  -- what is told is what happened.
  UPDATE jobs SET state = r.state, status_reason = r.status_reason,
                  claimable = r.state = 'queued' AND (r.came OR jobs.cancel_code IS NOT NULL),
                  ready_at = CASE WHEN r.state = 'queued' AND (r.came OR jobs.cancel_code IS NOT NULL) THEN r.at
                                  ELSE r.ready_at END,
                  updated_at = r.at, probation = 0,
                  accepting = jobs.accepting AND r.state = 'queued' AND r.status_reason <> 'waiting'
    FROM (SELECT p.job_id, p.run_id, p.state, p.status_reason, p.ready_at, p.at,
                 (p.ready_at IS NOT NULL AND p.ready_at <= p.at)
                 OR EXISTS (SELECT 1 FROM steps AS w
                             WHERE w.job_id = p.job_id AND w.state = 'waiting' AND w.waits_for IS NOT NULL AND CASE w.kind
                               WHEN 'signal' THEN EXISTS (SELECT 1 FROM signals AS g WHERE g.job_id = w.job_id
                                                             AND g.name = w.waits_for AND g.read_by IS NULL)
                               WHEN 'ask' THEN EXISTS (SELECT 1 FROM decisions AS d WHERE d.decision_id = w.waits_for
                                                          AND d.state <> 'open')
                               WHEN 'child_result' THEN EXISTS (SELECT 1 FROM jobs AS c WHERE c.job_id = w.waits_for
                                                                   AND c.completed_at IS NOT NULL)
                               WHEN 'external' THEN EXISTS (SELECT 1 FROM tokens AS t WHERE t.token = w.waits_for
                                                               AND t.state <> 'open')
                               ELSE false END) AS came
            FROM (SELECT value->>0 AS job_id, value->>1 AS run_id, value->>2 AS state, value->>3 AS status_reason,
                         value->>4 AS ready_at, value->>5 AS at
                    FROM jsonb_each(NEW.put_away)) AS p) AS r
   WHERE jobs.job_id = r.job_id AND +jobs.state = 'running' AND jobs.run_id = r.run_id
     AND NOT (r.state = 'awaiting_user'
              AND (jobs.cancel_code IS NOT NULL OR (r.came AND r.status_reason = 'awaiting_user')));
  SELECT RAISE(ABORT, 'refused:put_away') WHERE changes() <> coalesce(json_array_length(NEW.put_away), 0);

  -- A child that an operator retries although its parent has ended lives on its own.
  UPDATE jobs SET state = r.target, status_reason = r.status_reason, claimable = r.claimable,
                  ready_at = CASE WHEN r.claimable THEN r.at END, attempt = jobs.attempt + r.new_attempt,
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
                                 AND EXISTS (SELECT 1 FROM jobs AS p WHERE p.job_id = jobs.parent_job_id
                                                                       AND p.completed_at IS NOT NULL)),
                  completed_at = CASE WHEN r.target IN ('failed', 'cancelled', 'poisoned') THEN r.at END
    FROM (SELECT value->>0 AS job_id, value->>1 AS source, value->>2 AS source_reason, value->>3 AS target,
                 value->>4 AS status_reason, value->>5 AS claimable, value->>6 AS new_attempt, value->>7 AS probation,
                 value->>8 AS error, value->>9 AS at, value->>10 AS begun, value->>11 AS accepting
            FROM jsonb_each(NEW.move_jobs)) AS r
   WHERE jobs.job_id = r.job_id AND jobs.state = r.source AND (r.begun IS NULL OR jobs.begun = r.begun)
     AND (r.source_reason IS NULL OR jobs.status_reason = r.source_reason);
  SELECT RAISE(ABORT, 'refused:move_jobs') WHERE changes() <> coalesce(json_array_length(NEW.move_jobs), 0);

  -- No step is in flight in a job whose run has ended: what began and has no outcome is in doubt. By force a run is ended
  -- under its steps; of its own accord none should be left.
  UPDATE steps SET state = 'in_doubt'
    FROM (SELECT value->>0 AS job_id FROM jsonb_each(NEW.end_jobs)
          UNION ALL SELECT value->>0 FROM jsonb_each(NEW.put_away)
          UNION ALL SELECT value->>0 FROM jsonb_each(NEW.move_jobs) WHERE value->>1 = 'running') AS r
   WHERE steps.job_id = r.job_id AND steps.state = 'running' AND steps.kind IN ('step', 'poll');

  -- Nothing waits in a job that has ended. A retry begins its waits anew, and asks anew.
  UPDATE steps SET state = 'abandoned', ended_at = r.at
    FROM (SELECT value->>0 AS job_id, value->>7 AS at FROM jsonb_each(NEW.end_jobs)
          UNION ALL
          SELECT value->>0, value->>9 FROM jsonb_each(NEW.move_jobs) WHERE value->>3 IN ('failed', 'cancelled', 'poisoned')) AS r
   WHERE steps.job_id = r.job_id AND steps.state = 'waiting';
  UPDATE decisions SET state = 'withdrawn', decided_at = r.at
    FROM (SELECT value->>0 AS job_id, value->>7 AS at FROM jsonb_each(NEW.end_jobs)
          UNION ALL
          SELECT value->>0, value->>9 FROM jsonb_each(NEW.move_jobs) WHERE value->>3 IN ('failed', 'cancelled', 'poisoned')) AS r
   WHERE decisions.job_id = r.job_id AND decisions.state = 'open';

  -- A child's end that was read is read again: the child may have been retried since. So are the start of children that
  -- ended with their parent, and a wait that timed out.
  UPDATE steps SET state = 'backoff', until = CASE kind WHEN 'sleep' THEN until ELSE 0 END, try_number = 0, ended_at = NULL,
                   outcome = CASE WHEN kind IN ('step', 'poll') THEN outcome END
    FROM (SELECT value->>0 AS job_id, value->>1 AS step_key FROM jsonb_each(NEW.reopen_steps)) AS r
   WHERE steps.job_id = r.job_id AND steps.step_key = r.step_key
     AND (steps.state IN ('failed', 'abandoned') OR steps.kind IN ('child', 'child_result', 'signal', 'external', 'ask'));
  SELECT RAISE(ABORT, 'refused:reopen_steps') WHERE changes() <> coalesce(json_array_length(NEW.reopen_steps), 0);

  -- A wake-up reaches a job that was put away and waits for just this; a running one is told by its engine. What nobody
  -- waits for is left out before the wake-ups of one job are put together: it must not hide one that somebody waits for.
  UPDATE jobs SET state = 'queued', claimable = 1, ready_at = r.at, updated_at = r.at,
                  status_reason = CASE jobs.state WHEN 'awaiting_user' THEN 'decided' ELSE jobs.status_reason END
    FROM (SELECT job_id, max(decided) AS decided, max(at) AS at
            FROM (SELECT value->>0 AS job_id, value->>1 AS waits_for, value->>2 AS decided, value->>3 AS at
                    FROM jsonb_each(NEW.wake_jobs)) AS k
           WHERE EXISTS (SELECT 1 FROM steps AS w
                          WHERE w.waits_for = k.waits_for AND w.job_id = k.job_id AND w.state = 'waiting')
           GROUP BY job_id) AS r
   WHERE jobs.job_id = r.job_id AND (jobs.state = 'queued' OR (r.decided AND jobs.state = 'awaiting_user'));

  -- Put away or stalled, the job is queued for its last run, and its reason says so.
  UPDATE jobs SET cancel_code = r.code, cancel_reason = r.reason, cancel_by = r.by, updated_at = r.at,
                  status_reason = CASE WHEN jobs.state = 'running' OR jobs.held_by IS NOT NULL THEN jobs.status_reason
                                       ELSE 'asked_to_end:' || r.code END,
                  state = CASE WHEN jobs.state IN ('awaiting_user', 'stalled') AND jobs.held_by IS NULL THEN 'queued' ELSE jobs.state END,
                  attempt = jobs.attempt + (jobs.state = 'stalled' AND jobs.held_by IS NULL),
                  claimable = jobs.state IN ('queued', 'awaiting_user') OR (jobs.state = 'stalled' AND jobs.held_by IS NULL),
                  ready_at = CASE WHEN jobs.state IN ('queued', 'awaiting_user') OR (jobs.state = 'stalled' AND jobs.held_by IS NULL)
                                  THEN r.at END
    FROM (SELECT value->>0 AS job_id, value->>1 AS code, value->>2 AS reason, value->>3 AS by, value->>4 AS at
            FROM jsonb_each(NEW.cancel_jobs)) AS r
   WHERE jobs.job_id = r.job_id AND jobs.begun = 1 AND jobs.cancel_code IS NULL
     AND +jobs.state IN ('queued', 'awaiting_user', 'running', 'stalled');
  SELECT RAISE(ABORT, 'refused:cancel_jobs') WHERE changes() <> coalesce(json_array_length(NEW.cancel_jobs), 0);

  UPDATE jobs SET version = r.version, updated_at = r.at
    FROM (SELECT value->>0 AS job_id, value->>1 AS seen, value->>2 AS version, value->>3 AS at
            FROM jsonb_each(NEW.route_jobs)) AS r
   WHERE jobs.job_id = r.job_id AND +jobs.state = 'queued' AND jobs.begun = 1 AND jobs.version IS r.seen;
  SELECT RAISE(ABORT, 'refused:route_jobs') WHERE changes() <> coalesce(json_array_length(NEW.route_jobs), 0);

  -- After the moves: a parent that this batch retries has not ended.
  SELECT RAISE(ABORT, 'refused:expect_orphans')
    FROM (SELECT value->>0 AS job_id FROM jsonb_each(NEW.expect_orphans)) AS r
   WHERE NOT EXISTS (SELECT 1 FROM jobs AS c JOIN jobs AS p ON p.job_id = c.parent_job_id
                      WHERE c.job_id = r.job_id AND p.completed_at IS NOT NULL);

  -- A parent that was put away waiting for a job that ended in this batch may go on.
  UPDATE jobs SET claimable = 1, ready_at = r.at, updated_at = r.at
    FROM (SELECT w.job_id, max(e.at) AS at
            FROM (SELECT value->>0 AS job_id, value->>7 AS at FROM jsonb_each(NEW.end_jobs)
                  UNION ALL
                  SELECT value->>0, value->>9 FROM jsonb_each(NEW.move_jobs) WHERE value->>3 IN ('failed', 'cancelled', 'poisoned')) AS e
            JOIN steps AS w ON w.waits_for = e.job_id AND w.state = 'waiting' AND w.kind = 'child_result'
           GROUP BY w.job_id) AS r
   WHERE jobs.job_id = r.job_id AND +jobs.state = 'queued' AND +jobs.claimable = 0;
END;

CREATE TEMP VIEW batch_upkeep AS SELECT
  NULL AS writer_id, NULL AS wake_due, NULL AS judge_engines, NULL AS set_gates, NULL AS beats,
  NULL AS new_quarantines, NULL AS release_rows, NULL AS release_holds, NULL AS new_recoveries, NULL AS put_kinds,
  NULL AS put_queues, NULL AS set_queues, NULL AS close_writers;
CREATE TEMP TRIGGER apply_upkeep INSTEAD OF INSERT ON batch_upkeep BEGIN

  UPDATE jobs SET claimable = 1
   WHERE NEW.wake_due IS NOT NULL AND claimable = 0 AND ready_at IS NOT NULL AND +state = 'queued'
     AND ready_at <= (SELECT max(value->>0) FROM jsonb_each(NEW.wake_due));

  UPDATE engines SET state = r.target, verdict = r.verdict, evidence = r.evidence, ended_at = r.at
    FROM (SELECT value->>0 AS engine_id, value->>1 AS source, value->>2 AS target, value->>3 AS beat_at, value->>4 AS verdict,
                 value->>5 AS evidence, value->>6 AS at
            FROM jsonb_each(NEW.judge_engines)) AS r
   WHERE engines.engine_id = r.engine_id AND engines.state = r.source AND engines.engine_id <> NEW.writer_id
     AND r.source <> 'dead' AND r.source <> r.target
     AND (SELECT beat_at FROM beats WHERE beats.engine_id = r.engine_id) = r.beat_at;
  SELECT RAISE(ABORT, 'refused:judge_engines') WHERE changes() <> coalesce(json_array_length(NEW.judge_engines), 0);

  UPDATE engines SET gate = r.gate, gate_detail = r.detail, gate_opened_at = CASE r.gate WHEN 'open' THEN r.at END
    FROM (SELECT value->>0 AS engine_id, value->>1 AS gate, value->>2 AS detail, value->>3 AS at
            FROM jsonb_each(NEW.set_gates)) AS r
   WHERE engines.engine_id = r.engine_id AND engines.gate <> 'open'
     AND (r.gate <> 'open' OR NOT EXISTS (
           SELECT 1 FROM engines AS d JOIN runs ON runs.engine_id = d.engine_id AND runs.state = 'running'
            WHERE d.state IN ('dead', 'silent')
              AND NOT EXISTS (SELECT 1 FROM quarantine AS q WHERE q.job_id = runs.job_id AND q.released_at IS NULL)));
  SELECT RAISE(ABORT, 'refused:set_gates') WHERE changes() <> coalesce(json_array_length(NEW.set_gates), 0);

  UPDATE beats SET beat_at = r.beat_at, lease_until = r.lease_until
    FROM (SELECT value->>0 AS engine_id, max(value->>1) AS beat_at, max(value->>2) AS lease_until
            FROM jsonb_each(NEW.beats) GROUP BY 1) AS r
   WHERE beats.engine_id = r.engine_id;

  INSERT INTO quarantine (job_id, table_name, code, detail, recovery_id, quarantined_at)
  SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM jsonb_each(NEW.new_quarantines) WHERE true
      ON CONFLICT (job_id) DO UPDATE
     SET table_name = excluded.table_name, code = excluded.code, detail = excluded.detail, recovery_id = excluded.recovery_id,
         quarantined_at = excluded.quarantined_at, released_at = NULL
   WHERE quarantine.released_at IS NOT NULL;
  SELECT RAISE(ABORT, 'refused:new_quarantines') WHERE changes() <> coalesce(json_array_length(NEW.new_quarantines), 0);

  UPDATE quarantine SET released_at = r.at
    FROM (SELECT value->>0 AS job_id, value->>1 AS at FROM jsonb_each(NEW.release_rows)) AS r
   WHERE quarantine.job_id = r.job_id AND quarantine.released_at IS NULL;
  SELECT RAISE(ABORT, 'refused:release_rows') WHERE changes() <> coalesce(json_array_length(NEW.release_rows), 0);

  UPDATE jobs SET held_by = NULL, updated_at = r.at
    FROM (SELECT value->>0 AS job_id, value->>1 AS engine_id, value->>2 AS at FROM jsonb_each(NEW.release_holds)) AS r
   WHERE jobs.job_id = r.job_id AND jobs.held_by = r.engine_id AND +jobs.state = 'stalled';
  SELECT RAISE(ABORT, 'refused:release_holds') WHERE changes() <> coalesce(json_array_length(NEW.release_holds), 0);

  INSERT INTO recoveries (recovery_id, engine_id, engines, scanned, stalled, in_doubt, quarantined, started_at, duration_ms)
  SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8
    FROM jsonb_each(NEW.new_recoveries);

  INSERT INTO kinds (kind, version, registered_at)
  SELECT value->>0, coalesce(value->>1, ''), value->>2 FROM jsonb_each(NEW.put_kinds) WHERE true
      ON CONFLICT DO NOTHING;

  -- A queue's revision is one more than the one that was seen: what follows another one is refused.
  INSERT INTO queues (queue, slots, per_engine_slots, priority, rate, updated_at, defined_at, defined_by, revision)
  SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>5, value->>6, 1 + (value->>7)
    FROM jsonb_each(NEW.put_queues) WHERE true
      ON CONFLICT (queue) DO UPDATE
     SET slots = excluded.slots, per_engine_slots = excluded.per_engine_slots, priority = excluded.priority,
         rate = excluded.rate, updated_at = excluded.updated_at, defined_at = excluded.defined_at,
         defined_by = excluded.defined_by, revision = excluded.revision,
         previous = CASE WHEN queues.defined_by IS NULL THEN NULL ELSE json_object(
           'slots', queues.slots, 'per_engine_slots', queues.per_engine_slots, 'priority', queues.priority,
           'rate', json(queues.rate), 'by', queues.defined_by, 'at', queues.defined_at) END
   WHERE queues.revision = excluded.revision - 1;
  SELECT RAISE(ABORT, 'refused:put_queues') WHERE changes() <> coalesce(json_array_length(NEW.put_queues), 0);
  INSERT INTO queues (queue, paused, override, override_by, revision, updated_at)
  SELECT value->>0, value->>1, value->>2, value->>3, 1 + (value->>4), value->>5
    FROM jsonb_each(NEW.set_queues) WHERE true
      ON CONFLICT (queue) DO UPDATE
     SET paused = excluded.paused, override = excluded.override, override_by = excluded.override_by,
         revision = excluded.revision, updated_at = excluded.updated_at
   WHERE queues.revision = excluded.revision - 1;
  SELECT RAISE(ABORT, 'refused:set_queues') WHERE changes() <> coalesce(json_array_length(NEW.set_queues), 0);

  UPDATE engines SET state = 'stopped', ended_at = r.at
    FROM (SELECT value->>0 AS engine_id, value->>1 AS at FROM jsonb_each(NEW.close_writers)) AS r
   WHERE engines.engine_id = r.engine_id AND engines.state = 'live';
  SELECT RAISE(ABORT, 'refused:close_writers') WHERE changes() <> coalesce(json_array_length(NEW.close_writers), 0);
END;
