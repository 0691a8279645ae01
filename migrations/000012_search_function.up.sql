-- A search takes a millisecond less of the database: of one among a thousand faces that is a third.

-- 1:N: searches, decides, records, meters and remembers the answer, in one statement whose plans a session keeps, as
-- verify_face does. src/db/identifications.ts says what it answers: a row for each match, or one without any.
--
-- One statement, so that the shortlist and the faces are of one moment: between two a face could be replaced, and be found
-- by neither. That the keys are live is asked at a later moment than that.
--
-- The plan is made for a tenant of the usual size and kept for all, also while the tables grow from nothing: no sequential scan.
-- For tenants of a few faces it would be as good to read all faces of one: an order that only the primary key has, and no sorting,
-- leave the planner no choice. What must be sorted is sorted all the same, but so expensive on paper that JIT would start.
create function search_faces(
  tenant uuid,
  -- of the live keys of the tenant, and the probe and its sign code rotated by each
  key_versions integer[],
  probes vector[],
  codes bit[],
  shortlist_size integer,
  probe_model text,
  max_distance double precision,
  least_confidence double precision,
  -- whether a decision for somebody may be made of the probe
  may_match boolean,
  is_live boolean,
  quality numeric,
  max_results integer,
  request text,
  -- as in idempotent_requests
  request_key bytea,
  request_fingerprint bytea,
  remembered_for interval
) returns table (
  id uuid, faces_searched integer, threshold double precision, is_acceptable boolean, face_id uuid, external_id text,
  confidence double precision, distance double precision, key_version integer, sealed text
)
language plpgsql volatile
set search_path = public, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
begin
  -- a repetition: claim_request has found what was answered
  if nullif(current_setting('app.is_replay', true), '') is not null then
    return;
  end if;
  return query
  with candidates as materialized (
    select
      f.id, f.external_id, f.key_version, f.sealed,
      -- null under a key that is not live
      round((f.embedding <=> probes[array_position(key_versions, f.key_version)]) * 1e5::float8) / 1e5::float8 as distance
    from faces f
    where f.tenant_id = tenant and f.model = probe_model
      and f.id = any (array(
        select listed.face
        from unnest(codes) as probe (code), unnest(shortlist_faces(tenant, probe.code, shortlist_size)) as listed (face)
      ))
    order by f.id
  ), nearest as (
    select c.*, c.distance <= max_distance and may_match as is_match from candidates c
  ), best as (
    select n.id, n.external_id, n.distance, n.is_match from nearest n order by n.distance, n.id limit 1
  ), recorded as (
    insert into identifications as i (
      tenant_id, face_id, external_id, identified, confidence, threshold, model, faces_searched, faces_matched,
      liveness_passed, probe_quality, latency_ms, request_id
    )
    select
      tenant, case when b.is_match then b.id end, case when b.is_match then b.external_id end, coalesce(b.is_match, false),
      trunc(round((1 - b.distance / 2)::numeric, 12), 4), least_confidence, probe_model,
      (select coalesce(sum(c.change), 0) from face_counts c where c.tenant_id = tenant),
      (select count(*) from nearest n where n.is_match),
      is_live, trunc(quality, 4), extract(epoch from clock_timestamp() - transaction_timestamp()) * 1000, request
    from (select require_template_keys(key_versions)) as one_search left join best b on true
    returning i.id, i.faces_searched, i.threshold
  ), metered as (
    insert into usage_events (tenant_id, kind) select tenant, 'identification' from recorded
  ), matches as (
    select n.* from nearest n where n.is_match order by n.distance, n.id limit max_results
  ), answer as materialized (
    select
      r.id, r.faces_searched, r.threshold, may_match as is_acceptable, m.id as face_id, m.external_id,
      trunc(round((1 - m.distance / 2)::numeric, 12), 4)::float8 as confidence, m.distance, m.key_version,
      encode(m.sealed, 'base64') as sealed
    from recorded r left join matches m on true
    order by m.distance, m.id
  ), remembered as (
    insert into idempotent_requests (tenant_id, key, fingerprint, answer, expires_at)
    select
      tenant, request_key, request_fingerprint,
      -- without what only a face may hold
      jsonb_agg(to_jsonb(a) - 'external_id' - 'sealed'),
      transaction_timestamp() + remembered_for
    from answer a
  )
  select * from answer;
end
$$;
revoke all on function search_faces(
  uuid, integer[], vector[], bit[], integer, text, double precision, double precision, boolean, boolean, numeric, integer,
  text, bytea, bytea, interval
) from public;
grant execute on function search_faces(
  uuid, integer[], vector[], bit[], integer, text, double precision, double precision, boolean, boolean, numeric, integer,
  text, bytea, bytea, interval
) to rekko_app;
