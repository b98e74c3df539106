/** What runs in the thread that looks at senders (`receipt-checks.ts`). Owns: one resolver for each set of name servers. */
import { parentPort } from 'node:worker_threads';
import { systemClock } from '../common/platform/clock.ts';
import { DnsQuestions } from '../common/platform/dns-questions.ts';
import { workOn } from '../common/platform/thread-jobs.ts';
import { type AuthenticationJob, authenticate, type Finding } from './sender-authentication.ts';

if (parentPort !== null) {
  const resolvers = new Map<string, DnsQuestions>();
  workOn<AuthenticationJob, readonly Finding[]>(parentPort, (job, content) => {
    const { dnsServers, timeoutMs } = job.settings;
    const key = `${timeoutMs} ${dnsServers.join(' ')}`;
    const dns = resolvers.get(key) ?? new DnsQuestions(dnsServers, timeoutMs);
    resolvers.set(key, dns);
    return authenticate(job, content, systemClock, dns);
  });
}
