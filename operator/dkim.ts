/** Keys of DKIM and ARC of a MailCluster as the topology document has them. Owns: what a setting that is left out means. PURE. */
import type { ArcConfig, DkimConfig } from '../common/config.ts';
import type { MailCluster } from './resource/generated.ts';

export type DkimKey = NonNullable<MailCluster['spec']['dkim']>['keys'][number];

export const dkimKeys = ({ spec }: Pick<MailCluster, 'spec'>): readonly DkimKey[] => spec.dkim?.keys ?? [];

/** All private keys that transports read. */
export const privateKeys = ({ spec }: Pick<MailCluster, 'spec'>): readonly Pick<DkimKey, 'secretRef'>[] =>
  spec.arc === undefined ? dkimKeys({ spec }) : [...dkimKeys({ spec }), spec.arc];

export const signsFromMs = ({ signsFrom }: Pick<DkimKey, 'signsFrom'>): number =>
  signsFrom === undefined ? 0 : Math.max(0, Date.parse(signsFrom));

/** Null: nothing is signed. */
export function dkimConfig({ spec }: MailCluster): DkimConfig | null {
  const { dkim, frontend } = spec;
  if (dkim === undefined) return null;
  const keys = dkim.keys.map((one) => ({
    domain: one.domain,
    selector: one.selector,
    secret: one.secretRef.name,
    key: one.secretRef.key,
    signsFromMs: signsFromMs(one),
  }));
  return {
    failurePolicy: dkim.failurePolicy,
    keys: keys.sort((a, b) => (`${a.domain} ${a.selector}` < `${b.domain} ${b.selector}` ? -1 : 1)),
    relayFrom: frontend.listeners
      .filter(({ relayFrom }) => relayFrom.length > 0)
      .map(({ name, relayFrom }) => ({ listener: name, networks: relayFrom })),
  };
}

/** Null: nothing is sealed. */
export function arcConfig({ spec: { arc } }: MailCluster): ArcConfig | null {
  if (arc === undefined) return null;
  const { failurePolicy, domain, selector, secretRef } = arc;
  return { failurePolicy, domain, selector, secret: secretRef.name, key: secretRef.key };
}
