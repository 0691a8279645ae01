-- no transaction
drop index concurrently if exists idx_verifications_failed;
