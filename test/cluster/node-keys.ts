/**
 * Keys, certificates and kubeconfigs of the node level, written to DIR/pki and DIR/admin.conf: `node node-keys.ts DIR SERVER_IP PORT
 * SERVICE_IP nX=IP...`. Called by `up.sh`. What is there stays, so a second call changes nothing.
 */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { kubeconfig } from './control-plane.ts';
import { type Credentials, createAuthority, createKeyPair } from './pki.ts';

const [directory, serverIp, port, serviceIp, ...nodes] = process.argv.slice(2);
if (directory === undefined || serverIp === undefined || port === undefined || serviceIp === undefined) {
  throw new Error('usage: node-keys.ts DIR SERVER_IP PORT SERVICE_IP nX=IP...');
}
const pki = join(directory, 'pki');
const done = join(pki, 'complete');
if (!existsSync(done)) {
  await mkdir(pki, { recursive: true, mode: 0o700 });
  const authority = await createAuthority();
  const url = `https://${serverIp}:${port}`;
  const write = (path: string, text: string): Promise<void> => writeFile(path, text, { mode: 0o600 });
  const writePair = async (name: string, pair: Credentials): Promise<void> => {
    await write(join(pki, `${name}.crt`), pair.certPem);
    await write(join(pki, `${name}.key`), pair.keyPem);
  };
  const writeUser = async (path: string, user: string, group?: string): Promise<void> =>
    write(path, kubeconfig({ url, caPem: authority.caPem, ...(await authority.user(user, group)) }));
  await write(join(pki, 'ca.crt'), authority.caPem);
  const tokens = await createKeyPair();
  await write(join(pki, 'sa.key'), tokens.privatePem);
  await write(join(pki, 'sa.pub'), tokens.publicPem);
  const service = [
    'kubernetes',
    'kubernetes.default',
    'kubernetes.default.svc',
    'kubernetes.default.svc.cluster.local',
  ];
  const hosts = [...service, 'localhost', '127.0.0.1', serverIp, serviceIp];
  await writePair('apiserver', await authority.server('kube-apiserver', hosts));
  await writePair('apiserver-kubelet-client', await authority.user('apiserver-kubelet-client', 'system:masters'));
  await writeUser(join(directory, 'admin.conf'), 'admin', 'system:masters');
  for (const name of ['kube-controller-manager', 'kube-scheduler', 'kube-proxy']) {
    await writeUser(join(pki, `${name}.conf`), `system:${name}`);
  }
  for (const [name = '', address = ''] of nodes.map((node) => node.split('='))) {
    await writeUser(join(pki, `kubelet-${name}.conf`), `system:node:${name}`, 'system:nodes');
    await writePair(`kubelet-${name}-server`, await authority.server(name, [name, address]));
  }
  await write(done, '');
}
