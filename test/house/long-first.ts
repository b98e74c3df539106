/**
 * In which order vitest runs files: those whose tests start real transports first, so that at the end short ones fill all workers. Owns: that order. The rest
 * as vitest has it.
 */
import { readFileSync } from 'node:fs';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Minutes each. */
const LONG = /from '\.\/(pods-rig|one-step)\.ts'/;

export class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const isLong = ({ moduleId }: TestSpecification): boolean => LONG.test(readFileSync(moduleId, 'utf8'));
    const long = sorted.filter(isLong);
    return [...long, ...sorted.filter((one) => !long.includes(one))];
  }
}
