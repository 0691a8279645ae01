-- A verification takes half of the database's CPU, and a search of 100,000 faces a tenth less.

-- 1:1: compares, decides, records, meters and remembers the answer, in one statement. It is a function because parsing,
-- analyzing and planning that statement took four tenths of a verification: a session does it once. src/db/verifications.ts
-- says what it answers.
--
-- The budget of failed attempts is asked for before anything is decided. The unrounded distance decides: it is rounded as
-- distanceTo of src/db/templates.ts says, and the confidence is cut. Nothing is recorded or remembered while somebody must
-- wait; that nobody is enrolled is remembered.
--
-- The plan is kept while the tables grow from nothing, and in an empty one every index is as good as another: an order that
-- only the index of external_id has, and no sorting, leave the planner no choice.
create function verify_face(
  tenant uuid,
  subject text,
  -- of the live keys of the tenant, and the probe rotated by each
  key_versions integer[],
  probes vector[],
  probe_model text,
  max_distance double precision,
  least_confidence double precision,
  -- whether a decision for somebody may be made of the probe
  may_match boolean,
  is_live boolean,
  quality numeric,
  hourly_limit integer,
  daily_limit integer,
  request text,
  -- as in idempotent_requests
  request_key bytea,
  request_fingerprint bytea,
  remembered_for interval
) returns table (
  id uuid, verified boolean, confidence double precision, threshold double precision, liveness_passed boolean,
  wait_seconds integer, face_id uuid, is_acceptable boolean, model text, distance double precision, key_version integer,
  sealed text
)
language plpgsql volatile
set search_path = public, pg_temp
set plan_cache_mode = force_generic_plan
set enable_sort = off
as $$
begin
  -- a repetition: claim_request has found what was answered
  if nullif(current_setting('app.is_replay', true), '') is not null then
    return;
  end if;
  return query
  with enrolled as (
    select
      f.tenant_id, f.id, f.external_id, f.model, f.key_version, f.sealed,
      -- null under a key that is not live
      round((f.embedding <=> probes[array_position(key_versions, f.key_version)]) * 1e5::float8) / 1e5::float8 as distance
    from faces f
    where f.tenant_id = tenant and f.external_id between subject and subject and require_template_keys(key_versions)
    order by f.external_id
    limit 1
  ), waiting as materialized (
    select seconds_until_attempt(e.tenant_id, e.external_id, hourly_limit, daily_limit) as seconds
    from enrolled e
    where e.model = probe_model
  ), recorded as (
    insert into verifications as v (
      tenant_id, face_id, external_id, verified, confidence, threshold, model, liveness_passed, probe_quality,
      latency_ms, request_id
    )
    select
      e.tenant_id, e.id, e.external_id,
      e.distance <= max_distance and may_match,
      trunc(round((1 - e.distance / 2)::numeric, 12), 4),
      least_confidence, e.model, is_live, trunc(quality, 4),
      extract(epoch from clock_timestamp() - transaction_timestamp()) * 1000,
      request
    from enrolled e, waiting w
    where w.seconds = 0 and e.distance is not null
    returning v.id, v.verified, v.confidence, v.threshold, v.liveness_passed
  ), metered as (
    insert into usage_events (tenant_id, kind) select tenant, 'verification' from recorded
  ), answer as materialized (
    select
      r.id, r.verified, r.confidence::float8, r.threshold, r.liveness_passed, w.seconds as wait_seconds, e.id as face_id,
      may_match as is_acceptable, e.model, e.distance, e.key_version, case when r.verified then encode(e.sealed, 'base64') end as sealed
    from enrolled e left join waiting w on true left join recorded r on true
  ), remembered as (
    insert into idempotent_requests (tenant_id, key, fingerprint, answer, expires_at)
    select
      tenant, request_key, request_fingerprint,
      -- without what only a face may hold
      coalesce(jsonb_agg(to_jsonb(a) - 'sealed'), '[]'),
      transaction_timestamp() + remembered_for
    from answer a
    having bool_or(a.wait_seconds > 0) is not true
  )
  select * from answer;
end
$$;
revoke all on function verify_face(
  uuid, text, integer[], vector[], text, double precision, double precision, boolean, boolean, numeric, integer, integer,
  text, bytea, bytea, interval
) from public;
grant execute on function verify_face(
  uuid, text, integer[], vector[], text, double precision, double precision, boolean, boolean, numeric, integer, integer,
  text, bytea, bytea, interval
) to rekko_app;

-- A code with a short header is copied before it is compared, 100,000 times in a search; entries of the index are as large
-- either way. Faces that are there keep theirs until they are written anew, and are found all the same.
alter table faces alter column code set storage plain;
