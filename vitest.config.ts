/**
 * How vitest runs our tests: explicit imports, every file in its own process, a count line that `test/run.ts` adds up. Files of `test/api`
 * share one control plane, which comes up before the first of them and only for them; files of `test/e2e` share one cluster of real kubelets, but for those of
 * `test/e2e/api`, which are of that level and too long for `make test`.
 */
import { defineConfig } from 'vitest/config';
import { CountsReporter } from './test/house/counts-reporter.ts';
import { LongFirst } from './test/house/long-first.ts';

// biome-ignore lint/style/noDefaultExport: vitest reads the default export of its configuration file
export default defineConfig({
  test: {
    pool: 'forks',
    maxWorkers: 2,
    sequence: { sequencer: LongFirst },
    // Each wait in a test has a deadline of its own and says what it waited for; this is for what has none. Several such waits, or a machine that stood still, are more than 20 s.
    testTimeout: 90_000,
    hookTimeout: 90_000,
    teardownTimeout: 10_000,
    passWithNoTests: false,
    allowOnly: false,
    projects: [
      {
        extends: true,
        test: {
          name: 'api',
          include: ['test/api/**/*.test.ts', 'test/e2e/api/**/*.test.ts'],
          globalSetup: ['test/cluster/shared-cluster.ts'],
          // On a machine that is four times slower.
          testTimeout: 240_000,
          hookTimeout: 240_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'cluster',
          include: ['test/e2e/{short,whole}/**/*.test.ts'],
          globalSetup: ['test/e2e/cluster-setup.ts'],
          fileParallelism: false,
          hookTimeout: 300_000,
          teardownTimeout: 180_000,
        },
      },
      {
        extends: true,
        test: { name: 'tests', include: ['test/**/*.test.ts'], exclude: ['test/api/**', 'test/e2e/**'] },
      },
    ],
    reporters: ['default', new CountsReporter()],
  },
});
