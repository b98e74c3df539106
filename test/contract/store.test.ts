/** The queue database contract (`store.ts`), on every engine. */
import { engines } from './bench.ts';
import { storeContract } from './store.ts';

for (const engine of engines) storeContract(engine);
