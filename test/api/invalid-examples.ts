/**
 * Who refuses each example under `examples/invalid`, and with which words. What is not listed is refused by a rule of the CRD, in exactly
 * the words of our own validator, because both read them there. Owns: the exceptions, as data; `resources.test.ts` holds them to be true.
 */

export type Refusal =
  /** The API server, in its own words: those that name the field and what to do. */
  | { readonly by: 'schema'; readonly field: string; readonly says: readonly string[] }
  /** On the way through `kubectl`: what it says. */
  | { readonly by: 'kubectl'; readonly says: readonly string[] }
  /** Nobody but `mailcluster validate`: it takes two objects to see it, or more than a rule may cost. */
  | { readonly by: 'validate' };

const SPANS_OBJECTS = [
  'address-list-unknown',
  'alias-foreign-domain',
  'arc-key-not-pem',
  'catch-all-of-relay',
  'connector-to-ourselves',
  'copy-in-unknown-site',
  'database-of-unknown-cluster',
  'database-of-unknown-dag',
  'database-of-unknown-standalone-site',
  'defined-twice',
  'dkim-key-not-pem',
  'domain-not-accepted',
  'group-contains-itself',
  'domain-relayed-elsewhere',
  'hold-time-below-replay-lag',
  'resubmit-unknown-database',
  'secret-missing',
  'secret-without-key',
  'two-connectors-one-domain',
  'two-databases-one-address',
  'two-databases-one-domain',
];

const schema = (field: string, ...says: string[]): Refusal => ({ by: 'schema', field, says });

export const REFUSALS: ReadonlyMap<string, Refusal> = new Map<string, Refusal>([
  ...SPANS_OBJECTS.map((name) => [name, { by: 'validate' }] as const),
  ['not-yaml', { by: 'kubectl', says: ['error parsing', 'line'] }],
  // kubectl takes the last of two equal keys and says nothing; it is refused only because that one is empty. Our validator tells.
  ['key-twice', { by: 'kubectl', says: ['spec.dags: Required value', 'the cluster has no transports'] }],
  ['unknown-kind', { by: 'kubectl', says: ['MailCluser', 'no matches for kind'] }],
  ['unknown-version', { by: 'kubectl', says: ['mailcluster.dev/v1', 'no matches for kind'] }],
  ['duplicate-dag-member', schema('spec.dags[0].members[1]', 'Duplicate value', 'seattle')],
  ['duplicate-site', schema('spec.sites[2]', 'Duplicate value', 'seattle')],
  ['missing-site-of-member', schema('spec.dags[0].members[0].site', 'Required value')],
  ['name-too-long', schema('metadata.name', 'Too long', '40')],
  ['negative-replicas', schema('spec.dags[0].members[0].replicas', 'should be greater than or equal to 0')],
  ['replicas-as-text', schema('spec.dags[0].members[0].replicas', 'must be of type integer: "string"')],
  ['order-unknown-action', schema('spec.message.action', 'supported values', '"RemoveWithNdr"')],
  ['resubmit-bad-time', schema('spec.window.from', 'must be of type date-time')],
  ['secret-not-base64', schema('data', 'illegal base64 data')],
  ['unknown-field', schema('spec.standAlone', 'unknown field')],
  [
    'unknown-preference',
    schema('spec.shadowRedundancy.preference', 'supported values', '"PreferRemote"', '"RemoteOnly"', '"LocalOnly"'),
  ],
]);
