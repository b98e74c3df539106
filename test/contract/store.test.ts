/** The queue database contract (`store.ts`, `store-safety-net.ts`), on every engine. */
import { engines } from './bench.ts';
import { storeContract } from './store.ts';
import { safetyNetContract } from './store-safety-net.ts';

for (const engine of engines) {
  storeContract(engine);
  safetyNetContract(engine);
}
