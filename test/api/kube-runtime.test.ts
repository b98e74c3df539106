/** The contract suite of the operator's runtime against the real API server, the proxy that fails in between. */
import { inject, it } from 'vitest';
import { kubeApiContract } from '../contract/kube-api.ts';
import { kubeFaultContract } from '../contract/kube-faults.ts';
import { kubeReflectorContract } from '../contract/kube-reflector.ts';
import { type KubeRig, realRig } from '../contract/kube-rig.ts';

const shared = inject('sharedCluster');

if ('missing' in shared) {
  it('needs an API server', (context) => context.skip(shared.missing));
} else {
  const start = (): Promise<KubeRig> =>
    realRig({ url: shared.url, ca: shared.caPem, cert: shared.adminCertPem, key: shared.adminKeyPem });
  kubeApiContract('kube-apiserver', start);
  kubeFaultContract('kube-apiserver', start);
  kubeReflectorContract('kube-apiserver', start);
}
