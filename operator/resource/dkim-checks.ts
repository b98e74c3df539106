/**
 * What must hold between the keys of DKIM (and ARC) of one MailCluster and costs too much as a rule of a CRD (256 x 256 keys): two that would sign at the same time; and what is odd but right.
 * Owns: those checks. PURE.
 */
import { dkimKeys, signsFromMs } from '../dkim.ts';
import type { MailCluster } from './generated.ts';
import type { Path } from './problem.ts';

type Say = (path: Path, problem: string, fix: string) => void;

const dkimKeyPath = (at: number): Path => ['spec', 'dkim', 'keys', at];

export function checkDkim(cluster: MailCluster, say: Say): void {
  const keys = dkimKeys(cluster);
  for (const [at, key] of keys.entries()) {
    const rival = keys
      .slice(0, at)
      .find((other) => other.domain === key.domain && signsFromMs(other) === signsFromMs(key));
    if (rival !== undefined)
      say(
        [...dkimKeyPath(at), 'signsFrom'],
        `selectors ${rival.selector} and ${key.selector} of ${key.domain} sign from the same moment, and one message gets one signature`,
        'give the newer one a signsFrom, a time when its TXT record has been published for a day',
      );
  }
}

/** Where each private key is named. */
export function keyReferences(cluster: MailCluster) {
  const { arc } = cluster.spec;
  return [
    ...dkimKeys(cluster).map(({ secretRef }, at) => ({ secretRef, path: [...dkimKeyPath(at), 'secretRef'] as Path })),
    ...(arc === undefined ? [] : [{ secretRef: arc.secretRef, path: ['spec', 'arc', 'secretRef'] as Path }]),
  ];
}

/** The Secret is among the files, and what it holds there cannot sign. */
export function sayKey(path: Path, secret: string, key: string, problem: string, say: Say): void {
  say(
    [...path, 'key'],
    `${key} of Secret ${secret} ${problem}`,
    'put a private key in PEM there: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048',
  );
}

export function noteDkim(cluster: MailCluster, note: Say): void {
  const { dkim, sendConnectors } = cluster.spec;
  if (dkim !== undefined && sendConnectors.length === 0)
    note(
      ['spec', 'dkim'],
      'nothing is signed: there is no send connector, and what stays here needs no signature',
      'add a send connector, or remove dkim',
    );
}

export function noteArc(cluster: MailCluster, note: Say): void {
  const { arc, sendConnectors, frontend } = cluster.spec;
  if (arc === undefined) return;
  if (sendConnectors.length === 0)
    note(
      ['spec', 'arc'],
      'nothing is sealed: there is no send connector, and what stays here needs no seal',
      'add a send connector, or remove arc',
    );
  if (!frontend.listeners.some(({ authenticationResults }) => authenticationResults?.checks.includes('ARC')))
    note(
      ['spec', 'arc'],
      'nothing is sealed: no listener finds out what the chain of a message is',
      'add ARC to authenticationResults.checks of the listener that mail of strangers comes to, or remove arc',
    );
}
