/**
 * Loaded before a program that plays a pod of another version (`node --import`, after `pod-machine.ts`): the real program, with what is different in that
 * version written into its sources as they are loaded. Owns: what differs. Promise: a source in which the text to change is not found
 * ends the process, so that no test runs with two versions that are the same.
 */
import { registerHooks } from 'node:module';

interface Change {
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

const CHANGES: Readonly<Record<string, readonly Change[]>> = {
  /** Does not say which authorities it trusts. */
  former: [{ file: '/common/platform/pod-certificate.ts', from: '[TRUST_HEADER]: trustOf(ca),', to: '' }],
  /** Speaks a further version of the peer protocol, and its status has a field more. */
  next: [
    {
      file: '/common/peer/frames.ts',
      from: 'PEER_PROTOCOL_VERSIONS: readonly number[] = [1]',
      to: 'PEER_PROTOCOL_VERSIONS: readonly number[] = [1, 2]',
    },
    {
      file: '/transport/runtime/transport-view.ts',
      from: '    name: deps.name,',
      to: "    name: deps.name, ofANextVersion: { some: 'words' },",
    },
  ],
};

const changes = CHANGES[process.env.POD_BUILD ?? ''];
if (changes === undefined) throw new Error(`POD_BUILD: one of ${Object.keys(CHANGES).join(', ')}`);

registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context);
    const own = changes.filter(({ file }) => url.endsWith(file));
    if (own.length === 0) return loaded;
    const text = own.reduce((now, { file, from, to }) => {
      if (!now.includes(from)) throw new Error(`${file} has no ${from}`);
      return now.replace(from, to);
    }, String(loaded.source));
    return { ...loaded, source: text };
  },
});
