// Where a key set may be fetched from: nothing that leads into a private network (SSRF). No I/O.

const MAX_URL_LENGTH = 2048

// Names that are resolved inside a network: RFC 6761 (localhost), RFC 6762 (local), RFC 8375 (home.arpa),
// and `internal`, which ICANN reserved for private use in 2024.
const PRIVATE_SUFFIXES = ['.localhost', '.local', '.home.arpa', '.internal']

/**
 * Why a key set must not be fetched from this URL, for who configures it; null when it may be.
 *
 * Judged after WHATWG parsing, which is what `fetch` does too: it turns every spelling of an IPv4 address
 * (2130706433, 0x7f.1, full-width digits) into dots and decimals, and a backslash into a slash. A name that
 * resolves to a private address cannot be seen here; Cloudflare's egress does not reach private networks.
 *
 * @param allowsLoopback development only: takes http://127.0.0.1:port and http://localhost:port as well
 */
export function findUrlFault(url: string, allowsLoopback: boolean): string | null {
  if (url.length > MAX_URL_LENGTH) return `Must have at most ${MAX_URL_LENGTH} characters.`
  const parsed = URL.parse(url)
  if (!parsed) return 'Must be an absolute URL.'
  // percent-encoding makes it longer, and that is how it is stored
  if (parsed.href.length > MAX_URL_LENGTH) return `Must have at most ${MAX_URL_LENGTH} characters when percent-encoded.`
  // not URL.hash, which is empty for a URL that ends in "#"
  if (parsed.href.includes('#')) return 'Must not have a fragment.'
  if (parsed.username || parsed.password) return 'Must not have a user name or a password.'
  if (allowsLoopback && parsed.protocol === 'http:' && isLoopback(parsed.hostname)) return null
  if (parsed.protocol !== 'https:') return 'Must begin with https://.'
  // the port that the scheme implies is dropped in parsing
  if (parsed.port) return 'Must use port 443.'
  return findHostFault(parsed.hostname)
}

function isLoopback(host: string): boolean {
  return host === '127.0.0.1' || host === 'localhost'
}

function findHostFault(host: string): string | null {
  // also keeps "localhost." and "db.internal." from passing for other names than those without the dot
  if (host.endsWith('.')) return 'Must name its host without a dot at the end.'
  // IPv6 is in brackets, and no top-level domain is a number (RFC 3696): this leaves no address
  if (host.startsWith('[') || /(^|\.)\d+$/.test(host)) return 'Must name its host, not give its address.'
  if (!host.includes('.') || PRIVATE_SUFFIXES.some((suffix) => host.endsWith(suffix))) {
    return 'Must name a host of the public internet.'
  }
  return null
}
