/** How vitest runs our tests: explicit imports, every file in its own process, a count line that `test/run.ts` adds up. */
import { defineConfig } from 'vitest/config';
import { CountsReporter } from './test/house/counts-reporter.ts';

// biome-ignore lint/style/noDefaultExport: vitest reads the default export of its configuration file
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 20_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
    passWithNoTests: false,
    allowOnly: false,
    reporters: ['default', new CountsReporter()],
  },
});
