/**
 * DKIM signatures for what leaves through send connectors. Owns: the thread that makes them. Promises: the stored message stays as it is, every attempt signs anew; the content
 * is read once for it and streamed; a message that cannot be signed waits (4.7.5) or goes without, as the resource says, and either is logged and counted. What `content` throws is thrown on.
 */
import { join } from 'node:path';
import type { DkimConfig } from '../../common/config.ts';
import type { Envelope } from '../../common/message.ts';
import type { Clock } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import { StreamThread, ThreadError } from '../../common/platform/stream-thread.ts';
import { DkimPolicy } from '../core/dkim.ts';
import type { Signed, SigningJob } from './dkim-signature.ts';

export interface DkimSigningOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** In force now; null signs nothing. */
  readonly config: () => DkimConfig | null;
  /** Where Secrets are, a directory each. */
  readonly directory: string | null;
}

/** Field to put in front, empty for none; or why the message has to wait. */
export type Signature = { readonly field: string } | { readonly deferred: string };

const NONE: Signature = { field: '' };

export class DkimSigning {
  readonly #options: DkimSigningOptions;
  readonly #thread: StreamThread<SigningJob, Signed>;
  #policy: DkimPolicy | null = null;
  #isClosed = false;

  constructor(options: DkimSigningOptions) {
    this.#options = options;
    const entry = new URL('./dkim-worker.ts', import.meta.url);
    this.#thread = new StreamThread({ clock: options.clock, entry, name: 'dkim' });
  }

  async signatureOf(envelope: Envelope, content: () => AsyncIterable<Buffer>): Promise<Signature> {
    const { clock, directory } = this.#options;
    const policy = this.#current();
    if (policy === null || !policy.isOurs(envelope)) return NONE;
    const signedAtMs = clock.wallMs();
    const keys = policy.keysInForce(signedAtMs).map(({ domain, selector, secret, key }) => {
      return { domain, selector, secret, key, file: join(directory ?? '', secret, key) };
    });
    if (keys.length === 0) return NONE;
    const signed = await this.#run({ keys, signedAtMs }, content());
    if (signed.kind === 'not ours') return NONE;
    if (signed.kind === 'signed') {
      this.#count('signed');
      return { field: signed.field };
    }
    return this.#without(policy, signed.problem);
  }

  close(): Promise<void> {
    this.#isClosed = true;
    return this.#thread.close();
  }

  async #run(job: SigningJob, content: AsyncIterable<Buffer>): Promise<Signed> {
    try {
      return await this.#thread.run(job, content);
    } catch (error) {
      if (!(error instanceof ThreadError)) throw error;
      return { kind: 'unusable', problem: error.message };
    }
  }

  #without({ config }: DkimPolicy, problem: string): Signature {
    const isDeferred = this.#isClosed || config.failurePolicy === 'Defer';
    this.#options.log.warn({ problem, isDeferred }, 'message not signed');
    this.#count(isDeferred ? 'deferred' : 'unsigned');
    return isDeferred ? { deferred: `4.7.5 DKIM: ${problem}` } : NONE;
  }

  #count(outcome: 'signed' | 'unsigned' | 'deferred'): void {
    this.#options.metrics.increment('dkim_signatures_total', { outcome });
  }

  #current(): DkimPolicy | null {
    const config = this.#options.config();
    if (config === null) this.#policy = null;
    else if (this.#policy?.config !== config) this.#policy = new DkimPolicy(config);
    return this.#policy;
  }
}
