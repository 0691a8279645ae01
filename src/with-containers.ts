// The Worker's entry where the recognizer runs beside it, as containers of Cloudflare (wrangler.toml, production-containers).
import { Container } from '@cloudflare/containers'
import type { Env } from './env.ts'

export { default } from './index.ts'

/** Cold, a container takes seconds to load its models; a gate's lull is no reason to begin anew. */
const SLEEP_AFTER = '30m'

export class RecognizerContainer extends Container<Env> {
  override defaultPort = 8790
  override sleepAfter = SLEEP_AFTER
  // it needs nothing, and a picture must not leave it
  override enableInternet = false
  override envVars = {
    HOST: '0.0.0.0',
    PORT: '8790',
    ENVIRONMENT: this.env.ENVIRONMENT ?? 'production',
    RECOGNIZER_SECRET: this.env.RECOGNIZER_SECRET ?? '',
  }
}
