/**
 * Time and chance that do not come from the scheduler would make a seed more than one history. Owns: the trap around the globals that could bring them in;
 * each use during a run is reported once by its place.
 */
const seen = globalThis as { simulatorEscapes?: Set<string> };

function report(what: string): void {
  const place = new Error(what).stack
    ?.split('\n')
    .find((line) => line.includes('.ts:') && !line.includes('escapes.ts'));
  seen.simulatorEscapes?.add(`escape: ${what} was used${place === undefined ? '' : place.replace(/\s+at /, ' at ')}`);
}

/** Call once in a process that runs nothing but seeds. */
export function forbidEscapes(): void {
  seen.simulatorEscapes = new Set();
  const scope = globalThis as unknown as Record<string, (...args: unknown[]) => unknown>;
  for (const name of ['setTimeout', 'setInterval', 'fetch']) {
    const real = scope[name];
    scope[name] = (...args) => {
      report(name);
      return real?.(...args);
    };
  }
  const wrap = (owner: object, name: string, label: string): void => {
    const holder = owner as Record<string, (...args: unknown[]) => unknown>;
    const real = holder[name]?.bind(owner);
    holder[name] = (...args) => {
      report(label);
      return real?.(...args);
    };
  };
  wrap(Date, 'now', 'Date.now');
  wrap(Math, 'random', 'Math.random');
  wrap(performance, 'now', 'performance.now');
}

/** What was used so far. */
export const escapes = (): readonly string[] => [...(seen.simulatorEscapes ?? [])];
