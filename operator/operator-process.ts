/** How the process of the operator is started, whoever starts it: what it keeps is small, what a look leaves is garbage (docs/performance.md). PURE. */

/** As environment variables: of a Deployment, or of a bench. How much the old generation may grow is the program's own business (main.ts). */
export const OPERATOR_ENVIRONMENT: Readonly<Record<string, string>> = {
  NODE_OPTIONS: '--max-semi-space-size=2',
  // For the allocator of glibc, others ignore it: what is freed goes back to the system.
  MALLOC_ARENA_MAX: '2',
  MALLOC_TRIM_THRESHOLD_: '2097152',
};
