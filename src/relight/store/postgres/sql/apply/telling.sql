-- What is told of a batch. What this statement is part of: opening.sql.

-- name: events
-- Last, when everything has been found in order: a number that is given here is hardly ever lost.
INSERT INTO relight.events (event_id, type, ts, actor, actor_id, trace_id, job_id, run_id, step_key, model_id, engine_id,
                            payload, writer_id, writer_seq, prev_hash, hash, floor)
SELECT value->>0, value->>1, (value->>2)::bigint, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9,
       value->>10, value->>11, value->>12, (value->>13)::bigint, value->>14, value->>15,
       (SELECT floor FROM relight.engines WHERE engine_id = :writer_id)
  FROM jsonb_array_elements(:rows::jsonb) WITH ORDINALITY AS e (value, key)
 ORDER BY e.key;
