/** What a listener finds out about mail from strangers (RFC 8601) and whom it asks about all mail, as a front end's configuration has it. Owns: what a setting that is left out means. PURE. */
import { CHECKS } from '../common/authentication-results.ts';
import type { ListenerConfig } from '../common/config.ts';
import { durationMs } from './resource/quantity.ts';
import type { PlannedListener } from './topology.ts';

/** `host`: a name that all front ends share. A pod's own would change with it, and another's results would pass for a stranger's. */
export function receiptChecks(listener: PlannedListener, host: string): Pick<ListenerConfig, 'authenticationResults'> {
  const { authenticationResults: settings } = listener;
  if (settings === undefined) return {};
  return {
    authenticationResults: {
      authservId: settings.authservId ?? host,
      checks: CHECKS.filter((check) => settings.checks.includes(check)),
      timeoutMs: durationMs(settings.timeout),
      dnsServers: settings.dnsServers,
    },
  };
}

/** `[2001:db8::1]:8891` has its address without the brackets. */
export function contentFilter({ contentFilter: settings }: PlannedListener): Pick<ListenerConfig, 'contentFilter'> {
  if (settings === undefined) return {};
  const { address, timeout, failurePolicy } = settings;
  const at = address.lastIndexOf(':');
  const host = address.slice(0, at).replace(/^\[(.*)\]$/, '$1');
  return {
    contentFilter: { host, port: Number(address.slice(at + 1)), timeoutMs: durationMs(timeout), failurePolicy },
  };
}
