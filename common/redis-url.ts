/**
 * The URL of a Redis server as its Secret holds it: `redis://[user][:password]@host[:port]`, `rediss://` for TLS. Owns: what of it we understand.
 * Refuses what would be ignored otherwise (another database than 0, options) and never repeats the URL: a password may be in it.
 */
export interface RedisUrl {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
  readonly username: string | null;
  readonly password: string | null;
}

const DEFAULT_PORT = 6_379;
const FORM = 'expected redis://[user:password@]host[:port], or rediss:// for TLS';

/** A string is what is wrong with it. */
export function parseRedisUrl(text: string): RedisUrl | string {
  let url: URL;
  try {
    url = new URL(text.trim());
  } catch (error) {
    return `not a URL (${error instanceof Error ? error.name : 'unreadable'}); ${FORM}`;
  }
  if (url.protocol !== 'redis:' && url.protocol !== 'rediss:') return `a URL of another kind; ${FORM}`;
  if (url.hostname === '') return `a URL without a host; ${FORM}`;
  if (!['', '/', '/0'].includes(url.pathname))
    return 'a URL with another database than 0; entries have their own prefix';
  if (url.search !== '' || url.hash !== '') return `a URL with options; ${FORM}`;
  const username = decoded(url.username);
  const password = decoded(url.password);
  if (username === null || password === null) return 'a URL with a broken %-escape in user or password';
  return {
    host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
    port: url.port === '' ? DEFAULT_PORT : Number(url.port),
    tls: url.protocol === 'rediss:',
    username: username === '' ? null : username,
    password: password === '' ? null : password,
  };
}

function decoded(part: string): string | null {
  try {
    return decodeURIComponent(part);
  } catch (error) {
    if (error instanceof URIError) return null;
    throw error;
  }
}
