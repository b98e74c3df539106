/** The authority that signs the pods' certificates, and those certificates (kubernetes.md section 2). Owns: their condition. Never replaces an existing authority. PURE. */
import { authoritySecret } from '../resources/documents.ts';
import { named, PASSWORD_KEY } from '../resources/names.ts';
import { PASSWORD_BYTES, redisSecret } from '../resources/redis.ts';
import { act, event, type Finding, LATER_MS, refuse, wait } from './finding.ts';
import { isForeign, object } from './situation.ts';
import type { View } from './view.ts';

const condition = 'CertificatesValid';
const DAY_MS = 86_400_000;
const EXPIRING_MS = 30 * DAY_MS;
/** Pods renew at two thirds of a life of days: who is that late cannot. */
const RENEW_LATE_MS = 6 * 3_600_000;

export function authority({ situation }: View): readonly Finding[] {
  const { gathered, owner, cluster } = situation;
  const name = named.authority(owner.name);
  const { authority: found } = gathered;
  if (found.kind === 'invalid')
    return [
      refuse('AuthorityInvalid', `Secret ${name}: ${found.problem}; restore it, or delete it to have a new one made`, {
        condition,
      }),
    ];
  if (found.kind === 'present') {
    const leftMs = found.view.notAfterMs - gathered.nowMs;
    if (leftMs > EXPIRING_MS) return [];
    return [
      refuse(
        'AuthorityExpiring',
        `the authority in Secret ${name} ends ${new Date(found.view.notAfterMs).toISOString()}`,
        { condition },
      ),
    ];
  }
  const issuer = cluster.spec.certificates?.issuerRef;
  if (issuer === undefined) {
    const message = 'an authority for the certificates of the pods is made';
    return [
      act('AuthorityCreated', message, {
        condition,
        actions: [{ kind: 'createAuthority', secret: authoritySecret(owner) }],
        events: [event('Normal', 'AuthorityCreated', message)],
        afterMs: 100,
      }),
    ];
  }
  if (!gathered.kinds.certificate)
    return [
      refuse(
        'IssuerKindMissing',
        'certificates.issuerRef needs cert-manager, whose kind Certificate is not there; install it or remove issuerRef',
        { condition },
      ),
    ];
  return [
    wait('AuthorityMissing', `${issuer.kind} ${issuer.name} has not issued Certificate ${name} yet`, {
      condition,
      afterMs: LATER_MS,
    }),
  ];
}

/** While one authority replaces another: whether the former can go (docs/internals.md). */
function replacement({ gathered, owner, members }: View['situation']): readonly Finding[] {
  const { authority: found } = gathered;
  if (found.kind !== 'present' || (found.view.trustPem.match(/BEGIN CERTIFICATE/g) ?? []).length < 2) return [];
  const needing = members.filter(({ report }) => report?.certificateFormer ?? true);
  if (needing.length === 0) return [];
  const names = needing.map(({ name }) => name).join(', ');
  const message = `${names} may have a certificate of the former authority: keep ca.crt in Secret ${named.authority(owner.name)} until this is over`;
  return [wait('FormerAuthorityNeeded', message, { condition, afterMs: LATER_MS })];
}

export function certificates({ situation }: View): readonly Finding[] {
  const { nowMs } = situation.gathered;
  const late = situation.members.filter(
    ({ report }) => report?.certificateNotAfterMs != null && report.certificateNotAfterMs - nowMs < RENEW_LATE_MS,
  );
  const expiring = late.map(({ name, report }) => {
    const at = new Date(report?.certificateNotAfterMs ?? 0).toISOString();
    return refuse('CertificateExpiring', `the certificate of ${name} ends ${at} and was not renewed`, { condition });
  });
  return [...expiring, ...replacement(situation)];
}

export function redisPassword({ situation }: View): readonly Finding[] {
  const { cluster, owner, objects, gathered } = situation;
  const name = named.redis(owner.name);
  if (cluster.spec.redis.mode !== 'Managed') return [];
  const found = object(objects, 'Secret', name);
  if (found !== undefined && isForeign(found, owner))
    return [
      refuse('ForeignObject', `Secret ${name} is there and not ours; remove it or rename the MailCluster`, {
        condition: 'Progressing',
      }),
    ];
  if (gathered.secrets.find((one) => one.name === name)?.keys.includes(PASSWORD_KEY)) return [];
  return [
    act('WaitingForController', `a password for Redis is made (Secret ${name})`, {
      actions: [{ kind: 'createPassword', secret: redisSecret(owner), key: PASSWORD_KEY, bytes: PASSWORD_BYTES }],
    }),
  ];
}
