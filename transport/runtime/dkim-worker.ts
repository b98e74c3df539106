/** What runs in the thread that signs and seals (`dkim-signing.ts`). */
import { parentPort } from 'node:worker_threads';
import { workOn } from '../../common/platform/thread-jobs.ts';
import { type SealingJob, type Signed, type SigningJob, seal, sign } from './dkim-signature.ts';

if (parentPort !== null)
  workOn<SigningJob | SealingJob, Signed>(parentPort, (job, content) =>
    'keys' in job ? sign(job, content) : seal(job, content),
  );
