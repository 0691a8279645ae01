// What the rules of the linter find and is meant to be: each with the reason, reviewed. An object stands here as
// the rule writes it, with its whole definition where that is what was reviewed; when it changes, it is found
// again, and an exception that nothing matches any more is a finding itself.

export interface Exception {
  rule: string
  object: string
  /** Why it is safe. */
  reason: string
}

function except(rule: string, reviewed: Record<string, string>): Exception[] {
  return Object.entries(reviewed).map(([object, reason]) => ({ rule, object, reason }))
}

const NO_DATA = 'holds the version of the schema, and nothing of a tenant'
const OPERATORS = "the operator's: no login has a right on it, and its functions are reviewed below"

export const EXCEPTIONS: Exception[] = [
  // == Tables without a tenant ==
  ...['L07', 'L08', 'L09'].flatMap((rule) =>
    except(rule, { 'table schema_migrations': NO_DATA, 'table migration.history': NO_DATA }),
  ),
  ...except('L09', { 'table token_issuers': OPERATORS, 'table operator_events': OPERATORS }),
  ...except('L38', { 'table schema_migrations': 'GET /ready compares the version; it may only read it' }),

  // == Openings for functions of the owner ==
  ...except('L13', {
    'policy tenants_owner_select on tenants for select to rekko_owner using (true)':
      'keys, tokens and the operator find a tenant before anybody has entered it',
    'policy tenants_owner_insert on tenants for insert to rekko_owner with check (true)': 'create_tenant',
    'policy tenants_owner_update on tenants for update to rekko_owner using (true) with check (true)':
      'the operator renames, suspends and resumes tenants, and asks for their erasure',
    'policy api_keys_owner_select on api_keys for select to rekko_owner using (true)':
      'a key finds its tenant before anybody has entered it',
    'policy api_keys_owner_insert on api_keys for insert to rekko_owner with check (true)': 'create_api_key',
    'policy api_keys_owner_update on api_keys for update to rekko_owner using ((revoked_at IS NULL)) with check (true)':
      'revoke_api_key, `db.sh keys rotate`, and resolve_api_key, which notes when a key was used; a revoked key stays as it is',
    'policy usage_events_owner_select on usage_events for select to rekko_owner using (true)':
      'roll_up_usage takes the events of all tenants in one batch',
    'policy usage_events_owner_delete on usage_events for delete to rekko_owner using (true)':
      'roll_up_usage consumes what it has counted',
    'policy usage_records_owner_select on usage_records for select to rekko_owner using (true)':
      'roll_up_usage raises counters that are there',
    'policy usage_records_owner_insert on usage_records for insert to rekko_owner with check (true)': 'roll_up_usage',
    'policy usage_records_owner_update on usage_records for update to rekko_owner using (true) with check (true)':
      'roll_up_usage raises counters that are there',
    'policy face_counts_owner_select on face_counts for select to rekko_owner using (true)':
      'merge_face_counts looks for tenants with more than one row',
    'policy face_counts_owner_insert on face_counts for insert to rekko_owner with check (true)':
      'count_faces, by trigger, and merge_face_counts',
    'policy face_counts_owner_delete on face_counts for delete to rekko_owner using (true)':
      'merge_face_counts, and erase_tenant_batch',
    'policy idempotent_requests_owner_select on idempotent_requests for select to rekko_owner using (true)':
      'claim_request, for the tenant that was entered by its own words; and purge_idempotent_requests, which looks for those whose time is over',
    'policy idempotent_requests_owner_update on idempotent_requests for update to rekko_owner using ((expires_at <= transaction_timestamp())) with check (false)':
      'purge_idempotent_requests locks what it deletes next; WITH CHECK (false) lets nothing be changed',
    'policy idempotent_requests_owner_delete on idempotent_requests for delete to rekko_owner using (true)':
      'claim_request, purge_idempotent_requests and erase_tenant_batch',
    'policy token_issuers_owner_select on token_issuers for select to rekko_owner using (true)':
      'of no tenant: a token finds its issuer',
    'policy token_issuers_owner_insert on token_issuers for insert to rekko_owner with check (true)':
      'put_token_issuer',
    'policy token_issuers_owner_update on token_issuers for update to rekko_owner using (true) with check (true)':
      'put_token_issuer',
    'policy token_issuers_owner_delete on token_issuers for delete to rekko_owner using (true)': 'delete_token_issuer',
    'policy token_issuer_tenants_owner_select on token_issuer_tenants for select to rekko_owner using (true)':
      'a token finds out whether its issuer may speak for a tenant, before anybody has entered it',
    'policy token_issuer_tenants_owner_insert on token_issuer_tenants for insert to rekko_owner with check (true)':
      'put_token_issuer names the tenants of an issuer',
    'policy token_issuer_tenants_owner_delete on token_issuer_tenants for delete to rekko_owner using (true)':
      'put_token_issuer and delete_token_issuer take them away; erase_tenant_batch too',
    'policy admin_events_owner_insert on admin_events for insert to rekko_owner with check (true)':
      'create_api_key and revoke_api_key of the operator, who enters no tenant, leave their event',
    'policy operator_events_owner_insert on operator_events for insert to rekko_owner with check (true)':
      'of no tenant, append-only: what the functions of the operator did',
    'policy template_keys_owner_select on vault.template_keys for select to rekko_owner using (true)':
      'list_template_keys, require_template_keys and hold_template_key, each for the tenant that was entered by its own words; and whoever re-wraps the keys of all',
    'policy template_keys_owner_insert on vault.template_keys for insert to rekko_owner with check (true)':
      'create_tenant and `db.sh template-keys`: a tenant gets a key before anybody has entered it',
    'policy template_keys_owner_update on vault.template_keys for update to rekko_owner using (true) with check (true)':
      'request_tenant_erasure and destroy_template_key destroy keys, and a new master key wraps them anew',
    'policy template_keys_owner_delete on vault.template_keys for delete to rekko_owner using (true)':
      'erase_tenant_batch',
  }),
  ...except('L14', {
    'policy tenants_owner_delete on tenants for delete to rekko_owner using ((erasure_requested_at IS NOT NULL))':
      'erase_tenant_batch, and only a tenant whose erasure was requested',
  }),

  // == SECURITY DEFINER functions, with who may execute them ==
  ...except('L27', {
    'function resolve_api_key(bytea) for rekko_app':
      'by the exact hash of a key, before anybody has entered a tenant: at most one row, no name, no key',
    'function enter_tenant_by_api_key(uuid,bytea,text) for rekko_app':
      'checks the key in the transaction that uses it, then sets the tenant for that transaction',
    'function resolve_token_issuer(text) for rekko_app':
      'by the exact name of an issuer: its public keys and what its tokens must look like',
    'function resolve_token_tenant(uuid,bigint,uuid) for rekko_app':
      'one tenant that an issuer may speak for: its environment and settings, not its name',
    'function enter_tenant_by_token(uuid,uuid,bigint,text[],text,text) for rekko_app':
      'checks issuer and tenant in the transaction that relies on them, cuts the scopes down, then sets the tenant',
    'function require_valid_actor(uuid) for rekko_app':
      'answers nothing: raises when the credential that entered was revoked, or its issuer taken away, meanwhile',
    'function forget_subject(text) for rekko_app':
      'empties external_id and face_id in the audit of the tenant that was entered; the audit has no other change',
    'function claim_request(bytea,bytea) for rekko_app':
      'what the tenant that was entered was answered to a request of the same name, with the faces named in it; sets app.is_replay for the transaction',
    'function list_template_keys() for rekko_app':
      'the live keys of the tenant that was entered, wrapped: of no use without a master key, which the database never has',
    'function require_template_keys(integer[]) for rekko_app':
      'answers true, or raises: whether the tenant that was entered has live keys other than the versions named',
    'function hold_template_key(integer) for rekko_app':
      'answers true, or raises: whether a version is the newest of the tenant that was entered; keeps it from being destroyed until the transaction ends',
    'function count_faces() for nobody': 'a trigger: writes how many faces came or went, of the rows that changed',
    'function merge_face_counts(integer) for rekko_jobs': 'adds up rows of each tenant by itself; answers a number',
    'function purge_idempotent_requests(integer) for rekko_jobs': 'deletes rows whose time is over; answers a number',
    'function roll_up_usage(integer) for rekko_jobs': 'adds up events of each tenant by itself; answers a number',
    'function erase_requested_tenants(integer) for rekko_jobs':
      'goes on with an erasure that the operator requested; answers a number',
    'function create_tenant(uuid,text,text,bytea) for rekko_operator':
      'provisioning: takes a new id and its first key, wrapped; answers the id',
    'function find_tenant(uuid) for rekko_operator': 'provisioning: the row of a tenant, nothing that is its own',
    'function list_tenants(timestamp with time zone,uuid,integer) for rekko_operator':
      'provisioning: the rows of tenants, nothing that is their own',
    'function change_tenant(uuid,text,jsonb) for rekko_operator': 'provisioning: name and settings, with an event',
    'function set_tenant_active(uuid,boolean) for rekko_operator': 'suspends and resumes, with an event',
    'function request_tenant_erasure(uuid) for rekko_operator':
      'shuts a tenant out for good and destroys its keys, with an event',
    'function erase_tenant_batch(uuid,integer) for rekko_operator':
      'deletes inside the one tenant whose erasure was requested; its list of tables is a constant; answers a number',
    'function create_api_key(uuid,text,bytea,text,text[],timestamp with time zone) for rekko_operator':
      'the first key of a tenant: takes a hash and answers an id, with an event',
    'function revoke_api_key(uuid,uuid) for rekko_operator': 'a valid key into a revoked one, with an event',
    'function list_token_issuers(uuid,timestamp with time zone,uuid,integer) for rekko_operator':
      'who may sign tokens, for which tenants: ids and public keys',
    'function put_token_issuer(uuid,jsonb,text[],uuid[],boolean,boolean) for rekko_operator':
      'who may sign tokens, for which tenants, with an event',
    'function delete_token_issuer(uuid) for rekko_operator': 'takes an issuer away, with an event',
  }),

  // == Keys ==
  ...except('L29', {
    'index api_keys_hash_key of api_keys':
      'by the hash, a credential finds its tenant; 190 random bits under a pepper do not collide, and cannot be guessed',
  }),

  // == What the Worker may change, inside its tenant ==
  ...except('L39', {
    'DELETE on faces': 'a tenant erases a person',
    'UPDATE on faces (embedding, id, key_version, metadata, model, quality_score, sealed, updated_at)':
      'replacing a face and its metadata; whose it is, and the person, stay',
    'UPDATE on api_keys (expires_at, revoked_at)':
      'a tenant revokes and rotates its own keys; what a key may do, and its hash, stay',
    'UPDATE on tenants (settings, updated_at)': "a tenant's own settings; whether it is active is the operator's",
  }),
]
