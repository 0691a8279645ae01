// The lines that `make mutants` breaks, and the test files that must notice. Each breaks one promise of SECURITY.md.
import type { Edit } from './edit.ts'

export interface Mutant {
  name: string
  /** What no longer holds. */
  breaks: string
  edits: Edit[]
  tests: string[]
  /** Shows only with several sessions at once. */
  needsNative?: boolean
}

const TENANCY = 'migrations/000002_tenancy.up.sql'
const IDENTITY = 'migrations/000004_identity.up.sql'
const TEMPLATES = 'migrations/000006_protected_templates.up.sql'
const VERIFICATION = 'migrations/000011_faster_verification.up.sql'
const SEARCH = 'migrations/000012_search_function.up.sql'
const ATTACKS = 'test/node/attacks.test.ts'
const LINTER = 'test/node/linter.test.ts'
const AUTHENTICATION = 'test/worker/authentication.test.ts'
const TRANSACTIONS = 'test/worker/transactions.test.ts'
const PICTURES = 'test/worker/pictures.test.ts'
const TOKENS = 'test/worker/jwt.test.ts'
const INTEGRITY = 'test/worker/template-integrity.test.ts'
const KEYS = 'test/worker/template-keys.test.ts'
const IDEMPOTENCY = 'test/worker/idempotency.test.ts'
const REPETITION = 'test/worker/repetition.test.ts'
const PROTECTION = 'test/worker/protection.test.ts'

/** A policy of rekko_app as the migrations write it. */
const policy = (table: string, kind: 'wall' | 'tenant', rule = 'tenant_id = current_tenant_id()', check = rule) =>
  `create policy ${table}_${kind} on ${table}${kind === 'wall' ? ' as restrictive' : ''} to rekko_app
  using (${rule}) with check (${check});`

export const MUTANTS: Mutant[] = [
  // == The wall ==
  {
    name: 'restrictive-policy-dropped',
    breaks: 'a second permissive policy would open the faces of all tenants',
    edits: [{ file: TENANCY, from: policy('faces', 'wall'), to: '' }],
    tests: [LINTER],
  },
  {
    name: 'policies-using-true',
    breaks: 'a tenant reads the audit of all',
    edits: [
      { file: TENANCY, from: policy('verifications', 'wall'), to: policy('verifications', 'wall', 'true') },
      { file: TENANCY, from: policy('verifications', 'tenant'), to: policy('verifications', 'tenant', 'true') },
    ],
    tests: [ATTACKS],
  },
  {
    name: 'with-check-true',
    breaks: 'a tenant plants a face in another',
    edits: (['wall', 'tenant'] as const).map((kind) => ({
      file: TENANCY,
      from: policy('faces', kind),
      to: policy('faces', kind, 'tenant_id = current_tenant_id()', 'true'),
    })),
    tests: [ATTACKS],
  },
  {
    name: 'force-off',
    breaks: 'the owner, and every function that runs as it, is not bound by the policies',
    edits: [{ file: TENANCY, from: 'alter table api_keys force row level security;', to: '' }],
    tests: [LINTER],
  },
  {
    name: 'tenant-outlives-transaction',
    breaks: 'the next client of a pooled session finds the tenant of the one before',
    edits: [
      {
        file: IDENTITY,
        from: `    set_config('app.current_tenant_id', tenant::text, true),
    set_config('app.actor', 'api_key:'`,
        to: `    set_config('app.current_tenant_id', tenant::text, false),
    set_config('app.actor', 'api_key:'`,
      },
    ],
    tests: ['test/worker/isolation.test.ts'],
  },
  {
    name: 'owner-policy-missing',
    breaks: 'FORCE refuses the entering function its look at the keys',
    edits: [
      {
        file: TENANCY,
        from: 'create policy api_keys_owner_select on api_keys for select to rekko_owner using (true);',
        to: '',
      },
    ],
    tests: [TRANSACTIONS],
  },
  {
    name: 'foreign-key-without-tenant',
    breaks: 'a tenant can refer to a face of another, and learns from the error whether it exists',
    edits: [
      {
        file: TENANCY,
        from: '  constraint faces_tenant_external_key unique (tenant_id, external_id),',
        to: '  constraint faces_tenant_external_key unique (tenant_id, external_id),\n  constraint faces_id_key unique (id),',
      },
      {
        file: TENANCY,
        from: `constraint verifications_face_fkey foreign key (tenant_id, face_id) references faces (tenant_id, id)`,
        to: `constraint verifications_face_fkey foreign key (face_id) references faces (id)`,
      },
    ],
    tests: [LINTER],
  },
  {
    name: 'global-unique',
    breaks: 'an external_id that another tenant has cannot be enrolled',
    edits: [
      {
        file: TENANCY,
        from: '  constraint faces_tenant_external_key unique (tenant_id, external_id),',
        to: '  constraint faces_tenant_external_key unique (tenant_id, external_id),\n  constraint faces_external_key unique (external_id),',
      },
    ],
    tests: ['test/node/non-interference.test.ts'],
  },
  {
    name: 'immutable-tenant',
    breaks: 'a cached plan carries one tenant into the transaction of another',
    edits: [
      { file: TENANCY, from: 'language plpgsql stable parallel safe', to: 'language plpgsql immutable parallel safe' },
    ],
    tests: [LINTER],
  },
  {
    name: 'missing-tenant-is-nobody',
    breaks: 'a statement outside of a tenant answers an empty result instead of an error',
    edits: [
      {
        file: TENANCY,
        from: `    raise exception 'no tenant has been entered' using errcode = 'insufficient_privilege';`,
        to: '    return null;',
      },
    ],
    tests: [ATTACKS],
  },
  {
    name: 'search-path-unpinned',
    breaks: 'a temporary table could stand in for ours in a function that runs as the owner',
    edits: [
      {
        file: IDENTITY,
        from: `create function resolve_token_issuer(issuer_name text) returns table (id uuid, revision bigint, configuration jsonb)
language sql stable security definer
set search_path = pg_catalog, pg_temp`,
        to: `create function resolve_token_issuer(issuer_name text) returns table (id uuid, revision bigint, configuration jsonb)
language sql stable security definer`,
      },
    ],
    tests: [LINTER],
  },
  {
    name: 'audit-can-be-changed',
    breaks: 'the login of the Worker rewrites decisions',
    edits: [
      {
        file: TENANCY,
        from: 'grant select, insert on verifications, identifications, usage_events to rekko_app;',
        to: 'grant select, insert, update on verifications, identifications, usage_events to rekko_app;',
      },
    ],
    tests: [LINTER],
  },
  {
    name: 'setting-after-reset',
    breaks: 'a pooled session, which holds an empty setting, answers another error than a new one',
    edits: [
      {
        file: TENANCY,
        from: "nullif(current_setting('app.current_tenant_id', true), '');",
        to: "current_setting('app.current_tenant_id', true);",
      },
    ],
    tests: [ATTACKS, LINTER],
  },
  {
    name: 'operator-reads-faces',
    breaks: 'the operator sees the faces of tenants',
    edits: [
      {
        file: TENANCY,
        from: 'grant select on usage_records, face_counts to rekko_app;',
        to: 'grant select on usage_records, face_counts to rekko_app;\ngrant select on faces to rekko_operator;',
      },
    ],
    tests: [LINTER],
  },
  {
    name: 'erasure-forgets-a-table',
    breaks: 'rows of an erased tenant remain',
    edits: [
      {
        file: TEMPLATES,
        from: "'public.token_issuer_tenants',\n    'public.admin_events'\n",
        to: "'public.token_issuer_tenants'\n",
      },
    ],
    tests: ['test/worker/operator.test.ts'],
  },

  // == The door ==
  {
    name: 'door-bypassed',
    breaks: 'the tenant is set without asking whether the key is still good',
    edits: [
      {
        file: 'src/db/tenant.ts',
        from: "sql`select enter_tenant_by_api_key(${tenant.id}::uuid, decode(${entering.hash}, 'hex'), ${scope}) as scopes`",
        to: "sql`select set_config('app.current_tenant_id', ${tenant.id}, true), array['scores:read'] as scopes`",
      },
    ],
    tests: [TRANSACTIONS],
  },
  {
    name: 'revoked-key-enters',
    breaks: 'a revoked key works on in a warm isolate',
    edits: [
      {
        file: IDENTITY,
        from: "  if key.revoked_at is not null then\n    raise exception 'the credential is revoked'",
        to: "  if false then\n    raise exception 'the credential is revoked'",
      },
    ],
    tests: [TRANSACTIONS],
  },
  {
    name: 'expired-key-enters',
    breaks: 'a key works on in a warm isolate after its end',
    edits: [
      {
        file: IDENTITY,
        from: '  if key.expires_at <= transaction_timestamp() then\n    raise exception',
        to: '  if false then\n    raise exception',
      },
    ],
    tests: ['test/worker/api-keys.test.ts'],
  },
  {
    name: 'suspended-tenant-enters',
    breaks: 'a suspended tenant works on in a warm isolate',
    edits: [{ file: IDENTITY, from: '  if tenant_is_active is not true then', to: '  if false then' }],
    tests: [TRANSACTIONS],
  },
  {
    name: 'scope-unchecked',
    breaks: 'any key does anything',
    edits: [
      {
        file: IDENTITY,
        from: '  if required_scope is null or not required_scope = any (key.scopes) then',
        to: '  if false then',
      },
    ],
    tests: [TRANSACTIONS],
  },
  {
    name: 'cursor-unsigned',
    breaks: "another tenant's cursor is taken",
    edits: [{ file: 'src/cursor.ts', from: '  if (difference !== 0) return null\n', to: '' }],
    tests: ['test/worker/attacks.test.ts'],
  },
  {
    name: 'grants-beyond-own-scopes',
    breaks: 'a credential makes a key that may do more than it may itself',
    edits: [
      {
        file: 'src/db/api-keys.ts',
        from: 'array(select s from unnest(${[...scopes]}::text[]) as s where not s = any (current_scopes())) as missing_scopes,',
        to: 'array[]::text[] as missing_scopes,',
      },
    ],
    tests: ['test/worker/api-keys.test.ts'],
  },

  {
    name: 'revoked-key-makes-keys',
    breaks: 'a key that is revoked while its request waits leaves another behind',
    edits: [{ file: IDENTITY, from: '  perform public.require_valid_actor(tenant);\n', to: '' }],
    tests: ['test/worker/api-keys.test.ts'],
    needsNative: true,
  },

  // == Tokens ==
  {
    name: 'issuer-as-it-was',
    breaks: 'a token is good by keys that its issuer no longer has, for tenants that it was given since',
    edits: [
      { file: IDENTITY, from: '  if revision <> issuer_revision then', to: '  if false then' },
      { file: IDENTITY, from: ' and i.revision = issuer_revision\n', to: '\n' },
    ],
    tests: [AUTHENTICATION],
  },
  {
    name: 'algorithms-widened',
    breaks: 'a token is accepted with an algorithm that its issuer does not use',
    edits: [
      {
        file: 'src/auth/jwt.ts',
        from: 'if (!algorithm || !algorithms.includes(algorithm)) throw',
        to: 'if (!algorithm) throw',
      },
    ],
    tests: [TOKENS],
  },
  {
    name: 'audience-unchecked',
    breaks: 'a token for another service is accepted',
    edits: [
      {
        file: 'src/auth/jwt.ts',
        from: "  if (!isAudience(claims['aud'], issuer.audience)) throw new TokenRefused('audience')\n",
        to: '',
      },
    ],
    tests: [AUTHENTICATION],
  },
  {
    name: 'issuer-unchecked',
    breaks: 'an issuer signs in the name of another',
    edits: [
      {
        file: 'src/auth/jwt.ts',
        from: "  if (claims['iss'] !== issuer.issuer) throw new TokenRefused('issuer')\n",
        to: '',
      },
    ],
    tests: [TOKENS],
  },
  {
    name: 'issuer-speaks-for-all',
    breaks: 'an issuer works on for a tenant that was taken from it',
    edits: [
      {
        file: IDENTITY,
        from: '  where s.tenant_id = tenant and s.issuer_id = token_issuer and i.is_active;',
        to: '  where s.tenant_id = tenant and i.is_active;',
      },
    ],
    tests: [AUTHENTICATION],
  },
  {
    name: 'token-scopes-uncut',
    breaks: 'a token grants what its issuer may not',
    edits: [
      {
        file: IDENTITY,
        from: '  granted := array(select g from unnest(grantable) as g where g = any (token_scopes) order by g);',
        to: '  granted := token_scopes;',
      },
    ],
    tests: [AUTHENTICATION],
  },

  // == Decisions and attempts ==
  {
    name: 'verify-below-only',
    breaks: 'a confidence exactly at the threshold is refused',
    edits: [
      {
        file: VERIFICATION,
        from: 'e.distance <= max_distance and may_match,',
        to: 'e.distance < max_distance and may_match,',
      },
    ],
    tests: ['test/worker/decisions.test.ts'],
  },
  {
    name: 'no-direction-enrolled',
    breaks: 'a vector without a direction reaches a comparison, where NaN is above every threshold',
    edits: [
      {
        file: TENANCY,
        from: '  constraint faces_embedding_check check (vector_norm(embedding) between 0.999 and 1.001),\n',
        to: '',
      },
    ],
    tests: ['test/worker/isolation.test.ts', 'test/worker/decisions.test.ts', 'test/node/schema.test.ts', ATTACKS],
  },
  {
    name: 'attempts-unlocked',
    breaks: 'guesses sent together all see an unused budget',
    edits: [
      {
        file: IDENTITY,
        from: `  perform pg_advisory_xact_lock(
    ('x' || left(encode(sha256(convert_to(tenant || ' ' || subject, 'UTF8')), 'hex'), 16))::bit(64)::bigint
  );
`,
        to: '',
      },
    ],
    tests: ['test/worker/attempts.test.ts'],
    needsNative: true,
  },
  {
    name: 'erasure-keeps-the-name',
    breaks: 'the audit says whom it was about after their erasure',
    edits: [
      {
        file: 'src/db/faces.ts',
        from: 'select forget_subject(external_id)::text as forgotten from erased',
        to: 'select 1 as forgotten from erased',
      },
    ],
    tests: ['test/worker/faces.test.ts'],
  },

  // == Repetition ==
  {
    name: 'replay-erases-again',
    breaks: 'a repeated erasure erases whoever was enrolled since under the same external_id',
    edits: [
      {
        file: 'src/db/faces.ts',
        from: 'delete from faces where tenant_id = ${db.tenant.id} and external_id = ${externalId} and ${db.isFirst}',
        to: 'delete from faces where tenant_id = ${db.tenant.id} and external_id = ${externalId}',
      },
    ],
    tests: [IDEMPOTENCY],
  },
  {
    name: 'verification-not-remembered',
    breaks: 'a verification that is repeated is decided and billed twice',
    edits: [
      {
        file: VERIFICATION,
        from: '    having bool_or(a.wait_seconds > 0) is not true',
        to: '    having false and bool_or(a.wait_seconds > 0) is not true',
      },
    ],
    tests: [IDEMPOTENCY, REPETITION],
  },
  {
    name: 'wait-remembered',
    breaks: 'whoever had to wait before a verification is told so for a day',
    edits: [{ file: VERIFICATION, from: '    having bool_or(a.wait_seconds > 0) is not true', to: '' }],
    tests: [IDEMPOTENCY],
  },
  {
    name: 'sealed-copy-remembered',
    breaks: 'the sealed copy of an erased person stays in what is kept for repetitions',
    edits: [{ file: VERIFICATION, from: "to_jsonb(a) - 'sealed'", to: 'to_jsonb(a)' }],
    tests: [IDEMPOTENCY],
  },
  {
    name: 'plan-of-an-empty-table',
    breaks: 'a session that began with an empty gallery reads all faces for a verification',
    edits: [{ file: VERIFICATION, from: 'set enable_sort = off\n', to: '' }],
    tests: ['test/node/search-plan.test.ts'],
    needsNative: true,
  },
  {
    name: 'search-not-remembered',
    breaks: 'a search that is repeated is billed twice',
    edits: [{ file: SEARCH, from: '    from answer a\n  )', to: '    from answer a\n    having false\n  )' }],
    tests: [IDEMPOTENCY, REPETITION],
  },
  {
    name: 'match-remembered',
    breaks: 'the external_id of whoever a search named is still in what is remembered after their erasure',
    edits: [{ file: SEARCH, from: "to_jsonb(a) - 'external_id' - 'sealed'", to: "to_jsonb(a) - 'sealed'" }],
    tests: [IDEMPOTENCY],
  },
  {
    name: 'search-of-many-small',
    breaks: 'a large tenant among very many small ones reads all its faces for a search',
    edits: [{ file: SEARCH, from: 'set enable_sort = off\n', to: '' }],
    tests: ['test/node/search-plan.test.ts'],
    needsNative: true,
  },
  {
    name: 'search-of-an-empty-table',
    breaks: 'a session that began with an empty gallery reads all faces for a search',
    edits: [{ file: SEARCH, from: 'set enable_seqscan = off\n', to: '' }],
    tests: ['test/node/search-plan.test.ts'],
    needsNative: true,
  },
  {
    name: 'answer-not-remembered',
    breaks: 'what is repeated is done twice',
    edits: [
      { file: 'src/db/acts.ts', from: '      having ${isFirst(sql)}', to: '      having false and ${isFirst(sql)}' },
    ],
    tests: [IDEMPOTENCY, REPETITION],
  },
  {
    name: 'key-for-any-request',
    breaks: 'another request with the same key is answered with what the first one did',
    edits: [
      {
        file: 'migrations/000010_idempotent_requests.up.sql',
        from: 'if remembered.fingerprint is distinct from request_fingerprint then',
        to: 'if false then',
      },
    ],
    tests: [IDEMPOTENCY],
  },
  {
    name: 'remembered-threshold',
    breaks: 'whoever writes to the database says by which threshold a repeated decision is confirmed',
    edits: [
      {
        file: 'src/db/templates.ts',
        from: "typeof threshold === 'number' && threshold > floor ? threshold : floor",
        to: 'Number(threshold ?? floor)',
      },
    ],
    tests: [IDEMPOTENCY],
  },
  {
    name: 'erased-in-replay',
    breaks: 'a repetition names whoever was erased since, as nobody, and is not told so',
    edits: [{ file: 'src/db/acts.ts', from: 'if (faceId !== null && face?.model', to: 'if (face && face.model' }],
    tests: [IDEMPOTENCY],
  },
  {
    name: 'results-in-any-order',
    breaks: 'the results of a batch are taken for one another',
    edits: [{ file: 'src/db/tenant.ts', from: "    requireColumn(entered, 'scopes')\n", to: '' }],
    tests: [REPETITION],
  },

  {
    name: 'person-not-alone',
    breaks: 'an erasure beside a replacement finds nobody, and the person stays',
    edits: [
      {
        file: 'src/db/tenant.ts',
        from: 'lockSubject(sql, tenant.id, write.subject)]',
        to: 'lockSubject(sql, tenant.id, crypto.randomUUID())]',
      },
    ],
    tests: [TRANSACTIONS],
    needsNative: true,
  },
  {
    name: 'any-shape-of-answer',
    breaks: 'the driver reads what is no answer of PostgreSQL: for ten seconds, or wrongly',
    edits: [
      {
        file: 'src/db/neon.ts',
        from: 'if (!isAnswer(answer)) throw',
        to: "if (!isAnswer(answer) && answer === 'nothing') throw",
      },
    ],
    tests: [REPETITION],
  },

  // == Protected templates ==
  {
    name: 'embedding-in-clear',
    breaks: 'the database holds faces that anybody can read',
    edits: [
      {
        file: 'src/face/protection/rotation.ts',
        from: '  return Float32Array.from(y) as RotatedEmbedding\n',
        to: '  return Float32Array.from(embedding) as RotatedEmbedding\n',
      },
    ],
    tests: ['test/worker/faces.test.ts', INTEGRITY, PROTECTION],
  },
  {
    name: 'match-unconfirmed',
    breaks: 'whoever writes to the database makes any face match',
    edits: [
      {
        file: 'src/db/templates.ts',
        from: "    if (confirmation !== 'confirmed') throw await tampered(db, confirmation, match.face_id, decision)\n",
        to: '',
      },
    ],
    tests: [INTEGRITY],
  },
  {
    name: 'verification-unconfirmed',
    breaks: 'a verification believes the database; only searches ask the sealed copy',
    edits: [
      {
        file: 'src/db/verifications.ts',
        from: '    await requireConfirmed(db, protectedProbe, farthest, [match], { verificationId: id, wasDone })\n',
        to: '',
      },
    ],
    tests: [INTEGRITY],
  },
  {
    name: 'search-unconfirmed',
    breaks: 'a search believes the database; only verifications ask the sealed copy',
    edits: [
      {
        file: 'src/db/identifications.ts',
        from: '  await requireConfirmed(db, protectedProbe, farthest, matches, { identificationId: id, wasDone })\n',
        to: '',
      },
    ],
    tests: [INTEGRITY],
  },
  {
    name: 'unopened-is-confirmed',
    breaks: 'a sealed copy that does not open is taken for one that agrees',
    edits: [
      {
        file: 'src/face/protection/confirmation.ts',
        from: "  if (embedding === 'not opened') return embedding\n",
        to: "  if (embedding === 'not opened') return 'confirmed'\n",
      },
    ],
    tests: [INTEGRITY, PROTECTION],
  },
  {
    name: 'sealed-for-anybody',
    breaks: 'the sealed copy of one person confirms another',
    edits: [
      {
        file: 'src/face/protection/sealed-copy.ts',
        from: 'uuid(id), prefixed(externalId), prefixed(model)',
        to: 'uuid(id), prefixed(model)',
      },
    ],
    tests: [INTEGRITY, PROTECTION],
  },
  {
    name: 'sealed-for-any-id',
    breaks: 'a face is answered under an id that is not its own',
    edits: [
      {
        file: 'src/face/protection/sealed-copy.ts',
        from: 'uuid(id), prefixed(externalId), prefixed(model)',
        to: 'prefixed(externalId), prefixed(model)',
      },
    ],
    tests: [INTEGRITY],
  },
  {
    name: 'unrounded-distance',
    breaks: 'whoever is enrolled already is taken a second time at exactly the threshold, under some rotations',
    edits: [
      {
        file: 'src/db/templates.ts',
        from: 'round((embedding <=> ${rotated}) * 1e5::float8) / 1e5::float8',
        to: '(embedding <=> ${rotated})',
      },
    ],
    tests: [PICTURES],
  },
  {
    name: 'unrounded-search',
    breaks: 'a search finds nobody whose embedding is at exactly the threshold',
    edits: [
      {
        file: SEARCH,
        from: 'round((f.embedding <=> probes[array_position(key_versions, f.key_version)]) * 1e5::float8) / 1e5::float8',
        to: '(f.embedding <=> probes[array_position(key_versions, f.key_version)])',
      },
    ],
    tests: ['test/worker/decisions.test.ts', INTEGRITY],
  },
  {
    name: 'shortlist-of-200-always',
    breaks: 'in a gallery of a million a person next to the threshold is not found',
    edits: [
      {
        file: 'migrations/000013_shortlist_of_a_large_gallery.up.sql',
        from: 'greatest(size, gallery / 500)',
        to: 'size',
      },
    ],
    tests: ['test/worker/decisions.test.ts'],
  },
  {
    name: 'search-by-one-key',
    breaks: 'a large gallery that is being re-keyed is searched by the sign codes of one of its keys',
    edits: [{ file: SEARCH, from: 'from unnest(codes) as', to: 'from unnest(codes[1:1]) as' }],
    tests: [KEYS],
  },
  {
    name: 'stale-keys-compare',
    breaks: 'an isolate that remembers old keys misses who is stored under the new one',
    edits: [{ file: TEMPLATES, from: '  if is_known is not true then', to: '  if false then' }],
    tests: [KEYS],
  },
  {
    name: 'stale-keys-write',
    breaks: 'a face is written under a key that is destroyed meanwhile, and can be opened by nobody',
    edits: [{ file: TEMPLATES, from: '  if newest is distinct from key_version then', to: '  if false then' }],
    tests: [KEYS],
  },
  {
    name: 'needed-key-destroyed',
    breaks: 'a key is destroyed while faces are under it',
    edits: [{ file: TEMPLATES, from: '  if is_needed then', to: '  if false then' }],
    tests: [KEYS],
  },
  {
    name: 'vault-open',
    breaks: 'the login of the Worker reads, and so gives away, wrapped keys without a function',
    edits: [
      {
        file: TEMPLATES,
        from: '\nselect create_vault();\n',
        to: '\nselect create_vault();\ngrant usage on schema vault to rekko_app;\ngrant select on vault.template_keys to rekko_app;\n',
      },
    ],
    tests: [LINTER, 'test/node/schema.test.ts'],
  },
  {
    name: 'erasure-keeps-the-keys',
    breaks: 'the faces of an erased tenant can be read in every backup',
    edits: [
      {
        file: TEMPLATES,
        from: `      update vault.template_keys k set wrapped = null, destroyed_at = transaction_timestamp()
      where k.tenant_id = tenant and k.destroyed_at is null;
`,
        to: '      null;\n',
      },
    ],
    tests: ['test/worker/operator.test.ts'],
  },
  {
    name: 'development-key-in-production',
    breaks: 'templates are protected with a key that everybody knows',
    edits: [
      {
        file: 'src/db/template-keys.ts',
        from: "  if (environment !== 'dev' && [...secrets.keys()].some(isDevelopmentKey)) {",
        to: '  if (false) {',
      },
    ],
    tests: [KEYS],
  },
  {
    name: 'faces-left-in-clear',
    breaks: 'an upgrade leaves the faces that were there as they are',
    edits: [
      {
        file: 'scripts/database/migrate.ts',
        from: '        await protectFaces(connection, protection)\n',
        to: '',
      },
    ],
    tests: ['test/node/migrate.test.ts'],
  },
  {
    name: 'plain-face-taken',
    breaks: 'the database takes a face without a sealed copy from the moment that it can hold one',
    edits: [
      {
        file: TEMPLATES,
        from: '  key_version is not null and sealed is not null\n  and octet_length',
        to: '  octet_length',
      },
    ],
    tests: ['test/node/migrate.test.ts'],
  },

  // == Silence ==
  {
    name: 'address-in-the-log',
    breaks: 'the log names the people asked about',
    edits: [
      {
        file: 'src/app.ts',
        from: 'logRequest(trace, c.req.method, findRoute(matchedRoutes(c)), c.res.status)',
        to: 'logRequest(trace, c.req.method, c.req.path, c.res.status)',
      },
    ],
    tests: ['test/worker/requests.test.ts'],
  },
  {
    name: 'any-origin',
    breaks: 'any web page reads the answers',
    edits: [
      {
        file: 'src/cross-origin.ts',
        from: 'if (origin && c.res.status !== 401 && db?.tenant.settings.allowedOrigins.includes(origin)) {',
        to: 'if (origin) {',
      },
    ],
    tests: ['test/worker/requests.test.ts'],
  },
  {
    name: 'failures-uncounted',
    breaks: 'keys are guessed as fast as the database answers',
    edits: [
      {
        file: 'src/auth/failures.ts',
        from: "    if (!(await isWithin(env, 'failures', key))) blocked.set(key, true)\n",
        to: '',
      },
    ],
    tests: ['test/worker/limits.test.ts'],
  },
  {
    name: 'limit-ignored',
    breaks: 'a credential asks as often as it likes',
    edits: [{ file: 'src/rate-limit.ts', from: '  return success\n', to: '  return success || true\n' }],
    tests: ['test/worker/limits.test.ts'],
  },

  // == Pictures ==
  {
    name: 'poor-picture-enrolled',
    breaks: 'one bad picture in a gallery is taken for many people',
    edits: [
      {
        file: 'src/routes/face-source.ts',
        from: 'probe.quality !== null && probe.quality < minimumQuality',
        to: 'probe.quality !== null && probe.quality < 0',
      },
    ],
    tests: [PICTURES],
  },
  {
    name: 'photograph-of-a-photograph',
    breaks: 'a tenant that requires liveness lets in whoever holds a photograph to the camera',
    edits: [
      {
        file: 'src/db/templates.ts',
        from: 'return !tenant.settings.requiresLiveness || isLive === true',
        to: 'return !tenant.settings.requiresLiveness || isLive !== null',
      },
    ],
    tests: [PICTURES],
  },
  {
    name: 'twin-enrolled',
    breaks: 'one person is enrolled under two names of a tenant that wants nobody twice',
    edits: [
      {
        file: 'src/db/faces.ts',
        from: '${db.isFirst} and not exists (select from twin)\n      on conflict',
        to: '${db.isFirst}\n      on conflict',
      },
    ],
    tests: [PICTURES],
  },
  {
    name: 'bystander-enrolled',
    breaks: 'of two people in a picture, one is taken',
    edits: [
      {
        file: 'src/routes/face-source.ts',
        from: "if (another) throw new Problem('MULTIPLE_FACES'",
        to: "if (another && !face) throw new Problem('MULTIPLE_FACES'",
      },
    ],
    tests: [PICTURES],
  },
  {
    name: 'other-recognizer-compared',
    breaks: "embeddings of another recognizer are compared with the tenant's",
    edits: [{ file: 'src/routes/face-source.ts', from: '  requireModel(settings.model.id, analysis.model)\n', to: '' }],
    tests: [PICTURES],
  },
  {
    name: 'recognizer-believed',
    breaks: 'what the recognizer should not answer decides',
    edits: [{ file: 'src/recognizer.ts', from: 'score: Score, reasons:', to: 'score: z.number(), reasons:' }],
    tests: [PICTURES],
  },
]
