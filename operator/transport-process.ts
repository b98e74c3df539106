/** How the process of a transport is started, whoever starts it: it keeps its queue in memory (docs/performance.md, "Memory"). PURE. */

/** A small young generation saves a hundred MiB. How much the old one may grow is the transport's own business (heap-growth.ts). */
export const TRANSPORT_NODE_FLAGS: readonly string[] = ['--max-semi-space-size=8'];

/**
 * For the allocator of glibc, others ignore it: what is freed goes back to the system. As it comes, it keeps 50 MiB of buffers of a start
 * with a hundred thousand queued copies for ever.
 */
export const TRANSPORT_ALLOCATOR: Readonly<Record<string, string>> = {
  MALLOC_ARENA_MAX: '2',
  MALLOC_MMAP_THRESHOLD_: '262144',
  MALLOC_TRIM_THRESHOLD_: '2097152',
};
