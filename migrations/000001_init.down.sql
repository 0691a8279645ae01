drop table usage_records;
drop table verifications;
drop table faces;
drop table tenants;
-- the extension stays: it was made by an administrator, and other schemas may use it
