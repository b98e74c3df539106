/** Makes the body of a DSN: reads the original's header from the queue database and lets `core/dsn.ts` write the report. */
import type { Envelope, Reply } from '../../common/message.ts';
import { composeDsn } from '../core/dsn.ts';
import { type EarlyEffect, isExpansionReport } from '../core/events.ts';
import { envelopeFor } from '../core/return-path.ts';
import type { TransportDeps } from './deps.ts';

/** RFC 3461 6.2: the header suffices; bounded whatever the message has. */
const MAX_HEADER_BYTES = 131_072;

export async function composeFor(
  effect: Extract<EarlyEffect, { readonly kind: 'ComposeDsn' }>,
  deps: TransportDeps,
): Promise<{ readonly envelope: Envelope; readonly body: Buffer; readonly aboutExpansion: boolean } | null> {
  const { facts, state, recipient } = effect;
  const isExpansion = isExpansionReport(effect.dsn);
  const address = (isExpansion ? facts.envelope.expanded : facts.envelope.recipients)?.[recipient];
  const said = isExpansion ? undefined : state.recipients?.[recipient];
  if (address === undefined) return null;
  const originalHeader = await headerOf(deps, effect);
  const nowMs = deps.clock.wallMs();
  const dsn = composeDsn({
    id: effect.id,
    originalId: facts.id,
    original: envelopeFor(facts.envelope, address),
    recipients: [
      {
        recipient: address,
        report: effect.dsn === 'listed' ? 'delivered' : effect.dsn,
        reply: parseReply(said?.reply ?? ''),
        remoteHost: null,
        lastAttemptMs: said?.atMs ?? null,
        willRetryUntilMs:
          effect.dsn === 'delayed' ? facts.acceptedAtMs + deps.document.policies.queues.messageExpirationMs : null,
      },
    ],
    originalHeader,
    originalContent: null,
    hostname: deps.hostname,
    member: deps.name,
    nowMs,
  });
  return dsn === null ? null : { ...dsn, aboutExpansion: isExpansion };
}

async function headerOf(
  deps: TransportDeps,
  effect: Extract<EarlyEffect, { readonly kind: 'ComposeDsn' }>,
): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of deps.database.readBody(effect.parent)) {
      parts.push(chunk);
      size += chunk.length;
      const end = Buffer.concat(parts).indexOf('\r\n\r\n');
      if (end >= 0) return Buffer.concat(parts).subarray(0, end + 2);
      if (size > MAX_HEADER_BYTES) break;
    }
  } catch (error) {
    // A report without the original's header is better than none.
    deps.log.error({ attemptId: effect.parent, err: String(error) }, 'original unreadable for its report');
    return Buffer.alloc(0);
  }
  return Buffer.concat(parts).subarray(0, MAX_HEADER_BYTES);
}

/** `code enhanced text` as kept in a recipient's state. */
function parseReply(text: string): Reply | null {
  const match = /^(\d{3}) (?:(\d\.\d{1,3}\.\d{1,3}) )?(.*)$/s.exec(text);
  return match === null ? null : { code: Number(match[1]), enhanced: match[2] ?? '', text: match[3] ?? '' };
}
