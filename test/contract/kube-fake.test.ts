/** The contract suite of the operator's runtime against our own API server. */
import { kubeApiContract } from './kube-api.ts';
import { kubeFaultContract } from './kube-faults.ts';
import { kubeReflectorContract } from './kube-reflector.ts';
import { fakeRig } from './kube-rig.ts';

kubeApiContract('our own server', fakeRig);
kubeFaultContract('our own server', fakeRig);
kubeReflectorContract('our own server', fakeRig);
