// `scripts/with-node npx drizzle-kit generate` drafts the SQL of a change to src/db/schema.ts. Run it once before,
// for something to compare with, and once after. The drafts stay in .rekko/, which git ignores: what the
// second one says goes into migrations/NNNNNN_name.up.sql, completed by hand with what drizzle cannot
// express (first lines of the schema), beside a .down.sql.
import { defineConfig } from 'drizzle-kit'

export default defineConfig({
  dialect: 'postgresql',
  schema: './src/db/schema.ts',
  out: './.rekko/drizzle',
})
