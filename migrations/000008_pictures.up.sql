-- Decisions made from pictures: what the recognizer said of them beside the embedding, and analyses that are billed and
-- leave nothing else.

alter table verifications add column probe_quality numeric(5, 4);
alter table identifications add column probe_quality numeric(5, 4), add column liveness_passed boolean;

-- Events are consumed within a minute or so: there are few to look at.
alter table usage_events drop constraint usage_events_kind_check;
-- squawk-ignore constraint-missing-not-valid
alter table usage_events add constraint usage_events_kind_check
  check (kind in ('registration', 'verification', 'identification', 'deletion', 'analysis'));
alter table usage_records add column analyses bigint not null default 0;

create or replace function roll_up_usage(batch_size integer) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  consumed integer;
begin
  if not pg_try_advisory_xact_lock(hashtext('rekko.roll_up_usage')) then
    return 0;
  end if;
  with batch as (
    delete from public.usage_events
    where (tenant_id, id) in (select e.tenant_id, e.id from public.usage_events e limit batch_size)
    returning tenant_id, kind, to_char(occurred_at at time zone 'UTC', 'YYYY-MM') as period
  ), counted as (
    insert into public.usage_records as r (
      tenant_id, period, registrations, verifications, identifications, deletions, analyses
    )
    select
      b.tenant_id,
      b.period,
      count(*) filter (where b.kind = 'registration'),
      count(*) filter (where b.kind = 'verification'),
      count(*) filter (where b.kind = 'identification'),
      count(*) filter (where b.kind = 'deletion'),
      count(*) filter (where b.kind = 'analysis')
    from batch b
    group by b.tenant_id, b.period
    order by b.tenant_id, b.period
    on conflict on constraint usage_records_tenant_period_key do update set
      registrations = r.registrations + excluded.registrations,
      verifications = r.verifications + excluded.verifications,
      identifications = r.identifications + excluded.identifications,
      deletions = r.deletions + excluded.deletions,
      analyses = r.analyses + excluded.analyses,
      updated_at = transaction_timestamp()
  )
  select count(*)::integer into consumed from batch;
  return consumed;
end
$$;
