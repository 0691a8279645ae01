-- A search of a million faces also names those who are next to the threshold.
--
-- A sign code tells only about how near a face is: at a cosine of exactly 0.38, the threshold, 192 of 512 bits differ, give or take 9.
-- How many strangers come as near grows with the gallery: one in twenty of those people is not among the nearest 200 of a
-- million. So a shortlist is a share of its gallery, that which 200 are of 100,000: one in two hundred of them is missed, and of those
-- at 0.40 one in eight hundred, however large the gallery is. docs/performance.md has the table.

-- Step one of a search: the ids of the faces to compare exactly, `size` of them, or one in 500 where those are more. In a
-- gallery no larger than the shortlist that is everybody; otherwise the faces whose sign codes are nearest to the probe's,
-- by Hamming distance, from an index-only scan. When the codes cannot tell the nearest apart (a recognizer whose
-- components are all positive gives everybody the same code), it is everybody again: slow, and still right.
--
-- Sorting everybody takes a third of the time, so in a large gallery a fiftieth part says first how near the nearest are:
-- within the distance where it has four times its part of the shortlist there are some four shortlists of all. When there are
-- fewer than one, as five times in a million for 200 if faces are enrolled in any order, everybody is sorted: the answer
-- never depends on that distance.
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
  large_gallery constant integer := 5000;
  part constant integer := 50;
  gallery bigint := (select coalesce(sum(change), 0) from face_counts where tenant_id = tenant);
  wanted bigint := greatest(size, gallery / 500);
  reach double precision := 'infinity';
  shortlist uuid[];
  nearest double precision;
  farthest double precision;
begin
  if gallery > wanted then
    if gallery > large_gallery then
      select distance into reach
      from (select code <~> probe_code as distance from faces where tenant_id = tenant limit gallery / part) as sample
      order by distance
      offset 4 * wanted / part - 1
      limit 1;
    end if;
    loop
      select array_agg(id), min(distance), max(distance) into shortlist, nearest, farthest
      from (
        select id, code <~> probe_code as distance from faces
        where tenant_id = tenant and code <~> probe_code <= reach
        order by code <~> probe_code
        limit wanted
      ) as ranked;
      exit when cardinality(shortlist) >= wanted or reach = 'infinity';
      reach := 'infinity';
    end loop;
    if nearest < farthest then
      return shortlist;
    end if;
  end if;
  return array(select id from faces where tenant_id = tenant);
end
$$;
