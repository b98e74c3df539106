/** People with the roles of docs/kubectl-roles.yaml, and the policy that says who ordered, in one namespace of the shared API server. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import type { ApiAccess, ApiUser } from '../cluster/api-access.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { ROOT } from '../house/sources.ts';

export interface Person extends ApiUser {
  readonly name: string;
}

const documentsOf = async (file: string): Promise<readonly KubeObject[]> =>
  parseAllDocuments(await readFile(join(ROOT, file), 'utf8')).map((one) => one.toJS() as KubeObject);

export async function installRoles({ client }: ApiAccess): Promise<void> {
  for (const role of await documentsOf('docs/kubectl-roles.yaml')) await client.mustApply(role);
}

/** docs/order-policy.yaml for this namespace alone: other tests create orders in other names. The answer removes it. */
export async function installOrderPolicy({ client }: ApiAccess, namespace: string): Promise<() => Promise<void>> {
  const name = `orders-${namespace}`;
  const base = '/apis/admissionregistration.k8s.io/v1';
  for (const object of await documentsOf('docs/order-policy.yaml')) {
    const here = {
      matchResources: { namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': namespace } } },
    };
    const isBinding = object.kind === 'ValidatingAdmissionPolicyBinding';
    const spec = isBinding ? { ...object.spec, ...here, policyName: name } : object.spec;
    await client.mustApply({ ...object, metadata: { name }, spec });
  }
  return async () => {
    await client.call('DELETE', `${base}/validatingadmissionpolicybindings/${name}`);
    await client.call('DELETE', `${base}/validatingadmissionpolicies/${name}`);
  };
}

/** A ServiceAccount with these roles here. */
export async function personWith(
  access: ApiAccess,
  namespace: string,
  name: string,
  ...roles: readonly string[]
): Promise<Person> {
  const user = await access.serviceAccount(namespace, name);
  const subjects = [{ kind: 'ServiceAccount', name, namespace }];
  const apiVersion = 'rbac.authorization.k8s.io/v1';
  for (const role of roles) {
    const isWide = role === 'mailcluster-certificate-requester';
    const kind = isWide ? 'ClusterRoleBinding' : 'RoleBinding';
    const metadata = { name: `${role}-${name}${isWide ? `-${namespace}` : ''}`, ...(isWide ? {} : { namespace }) };
    const roleRef = { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: role };
    await access.client.mustApply({ apiVersion, kind, metadata, roleRef, subjects });
  }
  return { ...user, name: `system:serviceaccount:${namespace}:${name}` };
}
