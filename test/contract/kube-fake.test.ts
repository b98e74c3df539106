/** The contract suite of the operator's runtime against our own API server. */
import { kubeApiContract } from './kube-api.ts';
import { fakeRig } from './kube-rig.ts';

kubeApiContract('our own server', fakeRig);
