/**
 * A client certificate for the admin APIs of a MailCluster, for whoever may look at it or have mail of it: asked for through a CertificateSigningRequest that the
 * operator answers (`operator/access-requests.ts`; docs/decisions/0014-kubectl-plugin.md). Owns: the request and its end. Promise: the key
 * never leaves this process. Fails: `NoCluster` when it is refused, or nobody answered in time.
 */
import { createCertificateRequest, generateKeys, keyToPem } from '../../common/platform/certificate-request.ts';
import type { PersonRole } from '../../common/platform/peer-identity.ts';
import { systemRandom } from '../../common/platform/random.ts';
import type { SigningRequest } from '../access-requests.ts';
import type { AdminTls } from '../admin-client.ts';
import { CERTIFICATE_SIGNING_REQUEST } from '../kube/kinds.ts';
import { NoCluster } from '../local/cluster.ts';
import { ANNOTATION, PERSON_SIGNERS } from '../resources/names.ts';
import type { CommandContext } from './command.ts';
import { type KubeAccess, must } from './kube-access.ts';

/** The least that the API server takes: one command is shorter. */
const LIFETIME_S = 600;
const LOOK_MS = 100;
const END = '-----END CERTIFICATE-----\n';

export async function personTls(
  access: KubeAccess,
  cluster: string,
  role: PersonRole,
  context: CommandContext,
): Promise<AdminTls> {
  const { api, namespace, timeoutMs } = access;
  const key = await keyToPem((await generateKeys()).privateKey);
  const name = `mailcluster-${role}-${systemRandom.bytes(8).toString('hex')}`;
  const pem = await createCertificateRequest(key, name);
  const request: SigningRequest = {
    apiVersion: 'certificates.k8s.io/v1',
    kind: 'CertificateSigningRequest',
    metadata: { name, annotations: { [ANNOTATION.mailCluster]: `${namespace}/${cluster}` } },
    spec: {
      signerName: PERSON_SIGNERS[role],
      request: Buffer.from(pem).toString('base64'),
      expirationSeconds: LIFETIME_S,
      usages: ['digital signature', 'client auth'],
    },
  };
  must(await api.create(CERTIFICATE_SIGNING_REQUEST, request, { deadlineMs: timeoutMs }), access);
  for (let waitedMs = 0; waitedMs < timeoutMs; waitedMs += LOOK_MS) {
    const { status } = must(
      await api.get<SigningRequest>(CERTIFICATE_SIGNING_REQUEST, { namespace: '', name }, { deadlineMs: timeoutMs }),
      access,
    );
    const refused = status?.conditions?.find(({ type }) => type === 'Denied' || type === 'Failed');
    if (refused !== undefined)
      throw new NoCluster(`${refused.message}; ask for the role mailcluster-${role} (docs/cli.md has the roles)`);
    if (status?.certificate !== undefined) return tlsOf(status.certificate, key, cluster);
    await context.pause(LOOK_MS);
  }
  throw new NoCluster(
    `the operator has not signed CertificateSigningRequest ${name} in ${timeoutMs / 1_000} s; look whether it runs ("kubectl get mc" shows since when nothing changed) and whether it serves namespace ${namespace}`,
  );
}

/** First our certificate, then whom to trust. */
function tlsOf(base64: string, key: string, cluster: string): AdminTls {
  const pem = Buffer.from(base64, 'base64').toString('utf8');
  const end = pem.indexOf(END) + END.length;
  return { cert: pem.slice(0, end), ca: pem.slice(end), key, cluster };
}
