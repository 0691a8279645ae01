-- Keys that were revoked stay revoked.
drop function revoke_api_key(uuid, uuid);
drop policy api_keys_owner_update on api_keys;
