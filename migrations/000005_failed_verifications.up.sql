-- no transaction
-- Failed verifications of one person, newest first: what the budget of attempts counts. Not "if not exists":
-- that would take what an interrupted build left behind, an index that is not valid, for the index.
-- squawk-ignore prefer-robust-stmts
create index concurrently idx_verifications_failed on verifications (tenant_id, external_id, created_at desc)
where not verified;
