-- Step one of a search: the ids of the faces to compare exactly. In a small gallery that is everybody;
-- otherwise the faces whose sign codes are nearest to the probe's, by Hamming distance, from an
-- index-only scan. When the codes cannot tell the nearest apart (a recognizer whose components are all
-- positive gives everybody the same code), it is everybody again: slow, and still right.
--
-- A generic plan would lose the index-only scan; so would the planner's default for random_page_cost
-- where one tenant owns most of the table. Parallel workers take longer to start than 100,000 codes take
-- to scan, and would let one search occupy every core.
create or replace function shortlist_faces(tenant uuid, probe_code bit, size integer) returns uuid[]
language plpgsql stable
set search_path = public, pg_temp
set plan_cache_mode = force_custom_plan
set random_page_cost = 1.1
set max_parallel_workers_per_gather = 0
as $$
declare
  small_gallery constant integer := 1000;
  shortlist uuid[];
  nearest double precision;
  farthest double precision;
begin
  if (select coalesce(sum(change), 0) from face_counts where tenant_id = tenant) > small_gallery then
    select array_agg(id), min(distance), max(distance) into shortlist, nearest, farthest
    from (
      select id, code <~> probe_code as distance from faces where tenant_id = tenant order by code <~> probe_code limit size
    ) as ranked;
    if nearest < farthest then
      return shortlist;
    end if;
  end if;
  return array(select id from faces where tenant_id = tenant);
end
$$;
