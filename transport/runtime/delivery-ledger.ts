/**
 * A delivery agent that asks the ledger first (protocol.md 23, semantics.md D9). Owns: what of a request need not be sent again. Only recipients
 * behind a smart host, only copies that may have been sent before: for mailboxes the store decides, and an ordinary copy is nobody's repeat.
 * Promises: those of `delivery-api.ts`; a request waits for the ledger at most as long as that takes to answer; a recipient is left out only on the
 * signed word of a transport that relayed it; everything relayed here is recorded. Fails like the agent behind it: a ledger that fails is ignored.
 */
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import type { DeliveryAgent, DeliveryRecipient, DeliveryRequest, RecipientResult } from './delivery-api.ts';
import type { Ledger, LedgerAnswer, RelayedBefore } from './ledger.ts';

export interface LedgerPorts {
  readonly log: Logger;
  readonly metrics: Metrics;
}

export function withLedger(agent: DeliveryAgent, ledger: Ledger, ports: LedgerPorts): DeliveryAgent {
  return new LedgerDeliveryAgent(agent, ledger, ports);
}

type Done = (results: readonly RecipientResult[]) => void;

class LedgerDeliveryAgent implements DeliveryAgent {
  readonly #agent: DeliveryAgent;
  readonly #ledger: Ledger;
  readonly #ports: LedgerPorts;
  readonly #asking = new Set<Promise<void>>();
  #closed = false;

  constructor(agent: DeliveryAgent, ledger: Ledger, ports: LedgerPorts) {
    this.#agent = agent;
    this.#ledger = ledger;
    this.#ports = ports;
  }

  start(request: DeliveryRequest, done: Done): void {
    if (request.route.kind === 'mailbox') return this.#agent.start(request, done);
    if (!request.mayBeRepeat) return this.#send(request, done);
    const asking = this.#ask(request)
      .then((before) => this.#startRest(request, before, done))
      .finally(() => this.#asking.delete(asking));
    this.#asking.add(asking);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(this.#asking);
    await this.#agent.close();
  }

  /** By index in the request's recipients. */
  async #ask({ copyId: copy, recipients }: DeliveryRequest): Promise<ReadonlyMap<number, RelayedBefore>> {
    const keys = recipients.map(({ recipient }) => ({ copy, recipient: recipient.address }));
    let answers: readonly LedgerAnswer[] = [];
    try {
      answers = await this.#ledger.known(keys);
    } catch (error) {
      this.#ports.log.error({ attemptId: copy, error: String(error) }, 'ledger failed, the message is sent');
    }
    const before = new Map<number, RelayedBefore>();
    for (const [at, { index }] of recipients.entries()) {
      const answer = answers[at];
      if (answer?.kind === 'relayed') before.set(index, answer);
    }
    return before;
  }

  #startRest(request: DeliveryRequest, before: ReadonlyMap<number, RelayedBefore>, done: Done): void {
    const rest = request.recipients.filter(({ index }) => !before.has(index));
    const suppressed = request.recipients.flatMap(({ index }) => {
      const answer = before.get(index);
      return answer === undefined ? [] : [this.#suppress(request, index, answer)];
    });
    if (rest.length === 0) done(suppressed);
    else if (this.#closed) done(inOrder(request.recipients, [...suppressed, ...rest.map(stopping)]));
    else
      this.#send({ ...request, recipients: rest }, (results) =>
        done(inOrder(request.recipients, [...suppressed, ...results])),
      );
  }

  #send(request: DeliveryRequest, done: Done): void {
    this.#agent.start(request, (results) => {
      this.#record(request, results);
      done(results);
    });
  }

  #record({ copyId: copy, epoch, recipients }: DeliveryRequest, results: readonly RecipientResult[]): void {
    const addresses = new Map(recipients.map(({ index, recipient }) => [index, recipient.address]));
    const entries = results.flatMap((result) => {
      const recipient = addresses.get(result.index);
      if (result.kind !== 'relayed' || recipient === undefined) return [];
      return [{ copy, recipient, epoch, reply: result.reply, dsnPassedOn: result.dsnPassedOn }];
    });
    if (entries.length > 0) this.#ledger.record(entries);
  }

  #suppress(request: DeliveryRequest, index: number, { reply, dsnPassedOn, writer }: RelayedBefore): RecipientResult {
    const { copyId, deliveryId: attemptId, requestId } = request;
    this.#ports.metrics.increment('duplicates_suppressed_total', { reason: 'ledger' });
    this.#ports.log.info({ attemptId, copyId, requestId, index, writer, reply }, 'suppressed: relayed before');
    const said = `${reply} (suppressed: relayed before by ${writer})`;
    return { index, kind: 'relayed', reply: said, dsnPassedOn, isRepeat: true };
  }
}

const stopping = ({ index }: DeliveryRecipient): RecipientResult => ({
  index,
  kind: 'deferred',
  reply: '4.3.2 stopping', // RFC 3463 3.4: system not accepting network messages
  scope: 'host',
});

function inOrder(
  recipients: readonly DeliveryRecipient[],
  results: readonly RecipientResult[],
): readonly RecipientResult[] {
  const of = new Map(results.map((result) => [result.index, result]));
  return recipients.flatMap(({ index }) => of.get(index) ?? []);
}
