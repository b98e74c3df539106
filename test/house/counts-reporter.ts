/**
 * A vitest reporter for `test/run.ts`: says loudly what was skipped and why, names what failed, and ends with `N passed, N failed, N skipped`.
 * A test file that does not load, and an error outside any test, count as failures: they can hide any number of tests.
 */
import type { Reporter, TestCase, TestModule } from 'vitest/node';

export class CountsReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 };
    const failures: string[] = [];
    for (const module of modules) {
      let failedHere = 0;
      for (const test of module.children.allTests()) {
        const state = stateOf(test);
        counts[state] += 1;
        if (state !== 'failed') continue;
        failedHere += 1;
        failures.push(failedLine(module, test.fullName, test.result().errors));
      }
      // A file which failed to load, or whose hooks failed, without any test to show for it.
      if (!module.ok() && failedHere === 0) {
        counts.failed += 1;
        failures.push(failedLine(module, 'the file itself or a hook', module.errors()));
      }
    }
    for (const line of [...skippedLines(modules), ...failures]) console.log(line);
    console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  }
}

function stateOf(test: TestCase): 'passed' | 'failed' | 'skipped' {
  const { state } = test.result();
  // A test that never finished did not pass.
  return state === 'passed' || state === 'skipped' ? state : 'failed';
}

/** One line, so that the end of a long output still tells which test it was and why. */
function failedLine(module: TestModule, name: string, errors: readonly { message?: string }[] | undefined): string {
  const reason = errors?.[0]?.message?.split('\n')[0] ?? 'it did not finish';
  return `FAILED ${module.relativeModuleId}: ${name}: ${reason}`;
}

function skippedLines(modules: readonly TestModule[]): string[] {
  const reasons = new Map<string, string[]>();
  for (const module of modules) {
    for (const test of module.children.allTests('skipped')) {
      const result = test.result();
      const note = result.state === 'skipped' ? result.note : undefined;
      const reason = `${module.relativeModuleId}: ${note ?? 'no reason given'}`;
      reasons.set(reason, [...(reasons.get(reason) ?? []), test.fullName]);
    }
  }
  return [...reasons].flatMap(([reason, names]) => [
    `SKIPPED ${names.length} in ${reason}`,
    ...names.map((name) => `        ${name}`),
  ]);
}
