/**
 * Which Kubernetes Events are written, decided without writing. Pure (memory only). Owns: the series that are open and the allowance of every
 * object. The same thing said again is a count, not another Event (events.k8s.io/v1 `series`); who says too much about one object is
 * silenced about it for a while (client-go: 25 at once, then one per 5 minutes).
 */
export interface Said {
  /** Of the object it is about. */
  readonly uid: string;
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly action: string;
  readonly note: string;
}

/** An Event that is open: said at least once, and counted while it is said again. */
export interface Series {
  readonly key: string;
  readonly said: Said;
  readonly name: string;
  readonly firstMs: number;
  lastMs: number;
  count: number;
  /** What the API server has been told. */
  toldCount: number;
}

export type Verdict =
  | { readonly kind: 'new'; readonly series: Series }
  | { readonly kind: 'again'; readonly series: Series }
  | { readonly kind: 'dropped' };

/** Said again after so long, it is a new Event: the old one may have expired. client-go: 6 minutes. */
const SERIES_IDLE_MS = 360_000;
const ALLOWANCE = 25;
const REFILL_MS = 300_000;
/** Beyond that the oldest are forgotten. */
const MAX_SERIES = 4_096;

interface Allowance {
  tokens: number;
  atMs: number;
}

export class EventBook {
  readonly #series = new Map<string, Series>();
  readonly #allowances = new Map<string, Allowance>();

  /** `name`: for the object of a new Event. */
  say(said: Said, nowMs: number, name: () => string): Verdict {
    const key = JSON.stringify([said.uid, said.type, said.reason, said.action, said.note]);
    const open = this.#series.get(key);
    if (open !== undefined && nowMs - open.lastMs < SERIES_IDLE_MS) {
      open.count += 1;
      open.lastMs = nowMs;
      // The latest said are the last forgotten.
      this.#series.delete(key);
      this.#series.set(key, open);
      return { kind: 'again', series: open };
    }
    if (!this.#allow(said.uid, nowMs)) return { kind: 'dropped' };
    const series = { key, said, name: name(), firstMs: nowMs, lastMs: nowMs, count: 1, toldCount: 0 };
    this.#series.set(key, series);
    this.#forgetOldest(this.#series);
    return { kind: 'new', series };
  }

  /** The Event is not on the server any more: the next time it is said it is new. */
  drop(series: Series): void {
    if (this.#series.get(series.key) === series) this.#series.delete(series.key);
  }

  #allow(uid: string, nowMs: number): boolean {
    const allowance = this.#allowances.get(uid) ?? { tokens: ALLOWANCE, atMs: nowMs };
    const tokens = Math.min(ALLOWANCE, allowance.tokens + (nowMs - allowance.atMs) / REFILL_MS);
    this.#allowances.delete(uid);
    this.#allowances.set(uid, { tokens: tokens >= 1 ? tokens - 1 : tokens, atMs: nowMs });
    this.#forgetOldest(this.#allowances);
    return tokens >= 1;
  }

  #forgetOldest(map: Map<string, unknown>): void {
    const [oldest] = map.keys();
    if (map.size > MAX_SERIES && oldest !== undefined) map.delete(oldest);
  }
}
