/**
 * DKIM signatures for what our users send through send connectors, sets of ARC for what strangers do. Owns: the thread that makes them. Promises: the stored message stays as it is, every attempt signs anew; the content
 * is read once for it and streamed; a message that cannot be signed waits (4.7.5) or goes without, as the resource says, and either is logged and counted. What `content` throws is thrown on.
 */
import { join } from 'node:path';
import type { ArcConfig, DkimConfig } from '../../common/config.ts';
import type { Envelope } from '../../common/message.ts';
import type { Clock } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import { StreamThread, ThreadError } from '../../common/platform/stream-thread.ts';
import { sealFor } from '../core/arc.ts';
import { DkimPolicy } from '../core/dkim.ts';
import type { SealingJob, Signed, SigningJob } from './dkim-signature.ts';

export interface DkimSigningOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** In force now; null signs nothing. */
  readonly config: () => DkimConfig | null;
  /** In force now; null or absent seals nothing. */
  readonly arc?: () => ArcConfig | null;
  /** Where Secrets are, a directory each. */
  readonly directory: string | null;
}

/** What is signed or sealed: the message with what was found out about it when it came in. */
export interface Unsigned {
  readonly envelope: Envelope;
  /** As they travel. */
  readonly results: readonly string[];
  readonly content: () => AsyncIterable<Buffer>;
}

/** Fields to put in front, empty for none; or why the message has to wait. */
export type Signature = { readonly field: string } | { readonly deferred: string };

const NONE: Signature = { field: '' };

export class DkimSigning {
  readonly #options: DkimSigningOptions;
  readonly #thread: StreamThread<SigningJob | SealingJob, Signed>;
  #policy: DkimPolicy | null = null;
  #isClosed = false;

  constructor(options: DkimSigningOptions) {
    this.#options = options;
    const entry = new URL('./dkim-worker.ts', import.meta.url);
    this.#thread = new StreamThread({ clock: options.clock, entry, name: 'dkim' });
  }

  /** At most one of both: what is ours has no chain to go on with. */
  async signatureOf(message: Unsigned): Promise<Signature> {
    const policy = this.#current();
    if (policy?.isOurs(message.envelope) === true) return this.#sign(policy, message);
    const config = this.#options.arc?.() ?? null;
    return config === null ? NONE : this.#seal(config, message);
  }

  close(): Promise<void> {
    this.#isClosed = true;
    return this.#thread.close();
  }

  async #sign(policy: DkimPolicy, { content }: Unsigned): Promise<Signature> {
    const { clock, metrics } = this.#options;
    const signedAtMs = clock.wallMs();
    const keys = policy.keysInForce(signedAtMs).map((key) => ({ ...key, file: this.#fileOf(key) }));
    if (keys.length === 0) return NONE;
    const signed = await this.#run({ keys, signedAtMs }, content());
    const count = (outcome: 'signed' | 'unsigned' | 'deferred'): void =>
      metrics.increment('dkim_signatures_total', { outcome });
    if (signed.kind === 'signed') {
      count('signed');
      return { field: signed.field };
    }
    if (signed.kind !== 'unusable') return NONE;
    const without = this.#without('DKIM', policy.config.failurePolicy, signed.problem);
    count('deferred' in without ? 'deferred' : 'unsigned');
    return without;
  }

  async #seal(config: ArcConfig, { results, content }: Unsigned): Promise<Signature> {
    const { clock, log, metrics } = this.#options;
    const seal = sealFor(results);
    if (seal === null) return NONE;
    const key = { ...config, file: this.#fileOf(config) };
    const sealed = await this.#run({ key, sealedAtMs: clock.wallMs(), ...seal }, content());
    const count = (outcome: 'sealed' | 'unsealed' | 'deferred' | 'unsealable'): void =>
      metrics.increment('arc_seals_total', { outcome });
    if (sealed.kind === 'signed') {
      count('sealed');
      return { field: sealed.field };
    }
    if (sealed.kind !== 'unusable') {
      count('unsealable');
      if (sealed.kind === 'unsealable') log.info({ reason: sealed.why }, 'message not sealed');
      return NONE;
    }
    const without = this.#without('ARC', config.failurePolicy, sealed.problem);
    count('deferred' in without ? 'deferred' : 'unsealed');
    return without;
  }

  #fileOf({ secret, key }: Pick<ArcConfig, 'secret' | 'key'>): string {
    return join(this.#options.directory ?? '', secret, key);
  }

  async #run(job: SigningJob | SealingJob, content: AsyncIterable<Buffer>): Promise<Signed> {
    try {
      return await this.#thread.run(job, content);
    } catch (error) {
      if (!(error instanceof ThreadError)) throw error;
      return { kind: 'unusable', problem: error.message };
    }
  }

  #without(what: 'DKIM' | 'ARC', failurePolicy: string, problem: string): Signature {
    const isDeferred = this.#isClosed || failurePolicy === 'Defer';
    this.#options.log.warn({ problem, isDeferred }, `message not ${what === 'DKIM' ? 'signed' : 'sealed'}`);
    return isDeferred ? { deferred: `4.7.5 ${what}: ${problem}` } : NONE;
  }

  #current(): DkimPolicy | null {
    const config = this.#options.config();
    if (config === null) this.#policy = null;
    else if (this.#policy?.config !== config) this.#policy = new DkimPolicy(config);
    return this.#policy;
  }
}
