/** What a delivery agent reports, in the words of the core. */
import type { CoreEvent, DeliveryResult } from '../core/events.ts';
import type { RecipientResult } from './delivery-api.ts';

export function outcomeOf(requestId: number, results: readonly RecipientResult[]): CoreEvent {
  const said = results.flatMap((result) => (result.kind === 'withheld' ? [] : [toCore(result)]));
  return { kind: said.length < results.length ? 'DeliveryWithheld' : 'DeliveryDone', requestId, results: said };
}

function toCore(result: Exclude<RecipientResult, { readonly kind: 'withheld' }>): DeliveryResult {
  switch (result.kind) {
    case 'delivered':
    case 'relayed':
      return {
        index: result.index,
        kind: result.kind,
        reply: result.reply,
        ...(result.isRepeat === true ? { isRepeat: true } : {}),
        ...(result.dsnPassedOn ? { isPassedOn: true } : {}),
      };
    case 'deferred':
      return { index: result.index, kind: 'deferred', reply: result.reply, host: result.scope === 'host' };
    case 'failed':
      return {
        index: result.index,
        kind: 'failed',
        reply: `${result.reply.code} ${result.reply.enhanced} ${result.reply.text}`,
      };
    case 'unknown':
      return { index: result.index, kind: 'unknown', reason: result.reason };
  }
}
