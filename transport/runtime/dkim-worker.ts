/** What runs in the thread that signs (`dkim-signing.ts`). */
import { parentPort } from 'node:worker_threads';
import { workOn } from '../../common/platform/thread-jobs.ts';
import { type Signed, type SigningJob, sign } from './dkim-signature.ts';

if (parentPort !== null) workOn<SigningJob, Signed>(parentPort, sign);
