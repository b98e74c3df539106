/** What a listener finds out about mail from strangers (RFC 8601), as a front end's configuration has it. Owns: what a setting that is left out means. PURE. */
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
