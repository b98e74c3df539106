/** Copies as they lie in a Safety Net, for tests of what reads them. */
import type { CopyId, Identity } from '../../common/message.ts';
import type { StoredCopy } from '../../transport/store/database.ts';
import { detail } from './admin-world.ts';

export const copyId = (n: number): CopyId => `01JABCDEFGHJKMNPQRST${String(n).padStart(6, '0')}` as CopyId;

export function deliveredCopy(
  n: number,
  {
    sender = 'ann@example.org',
    recipient = 'bob@contoso.com',
  }: { readonly sender?: string; readonly recipient?: string } = {},
): StoredCopy {
  const { facts, state } = detail('delivery');
  const address = recipient;
  return {
    facts: {
      ...facts,
      id: copyId(n),
      sizeBytes: 10,
      envelope: { ...facts.envelope, reversePath: sender, recipients: [{ address }] },
    },
    state: {
      ...state,
      queue: 'primarySafetyNet',
      epoch: { try: 1, term: 0, owner: 'IDENTITY-a' as Identity },
      recipients: [{ address, outcome: 'delivered', database: 'db01' }],
      finalAtMs: 1_000 + n,
    },
  };
}
