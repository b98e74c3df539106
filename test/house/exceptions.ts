/**
 * Who may break which rule of `test/house/rules.ts`, and why. Short on purpose: a line here is a decision somebody has to defend,
 * and `test/tidy.test.ts` refuses a line that no longer excuses anything.
 */
export interface Exceptions {
  /** Files that are started although they are not called `main.ts`. */
  readonly entries: ReadonlyMap<string, string>;
  readonly defaultExports: ReadonlyMap<string, string>;
  /** Product files outside common/platform that use clock, timers or randomness directly. */
  readonly escapes: ReadonlyMap<string, string>;
  /** Test files with a wait that only a timer ends. */
  readonly sleeps: ReadonlyMap<string, string>;
  /** Files over 500 lines. */
  readonly longFiles: ReadonlyMap<string, string>;
}

export const EXCEPTIONS: Exceptions = {
  entries: new Map([
    ['transport/inspect.ts', 'offline tools of the queue database, started by `mailcluster store`'],
    ['transport/runtime/dkim-worker.ts', 'the thread that signs'],
    ['frontend/authentication-worker.ts', 'the thread that looks at who sent a message'],
    ['operator/cli/kubectl-main.ts', 'the second entry of the commands, started by operator/cli/kubectl-mailcluster'],
    ['examples/demo.ts', 'make demo'],
    ['test/run.ts', 'make test'],
    ['test/sim/run.ts', 'the seeds of the simulator stage'],
    ['test/model/run.ts', 'the model stage, make model'],
    ['test/bench/accept.ts', 'make bench'],
    ['test/bench/smtp-edge.ts', 'what one message costs the SMTP edge alone'],
    ['test/bench/queued.ts', 'a hundred thousand queued messages, whole transports'],
    ['test/bench/loaded.ts', 'accepting beside a large queue or a large Safety Net'],
    ['test/bench/destinations.ts', 'many destinations, one of them dead and one slow'],
    ['test/bench/takeover.ts', 'takeover of a hundred thousand shadow copies'],
    ['test/bench/resubmit.ts', 'resubmission out of a large Safety Net'],
    ['test/bench/idle.ts', 'what silent peers cost'],
    ['test/bench/bad-clients.ts', 'what thousands of bad clients take from a front end'],
    ['test/bench/dkim.ts', 'what signing takes from the event loop'],
    ['test/bench/operator.ts', 'what the operator takes with one MailCluster and with many'],
    ['test/bench/routes.ts', 'least-cost paths over many sites'],
    ['test/bench/store-memory.ts', 'what queued copies cost the store'],
    ['test/bench/store-net.ts', 'what copies at rest cost the store'],
    ['test/house/generate.ts', 'make docs'],
    ['test/process/partition-driver.ts', 'the cluster and the cuts of a partition test, in a private network'],
    ['test/api/cluster-holder.ts', 'a process that holds a control plane until it is killed'],
    ['test/cluster/node-keys.ts', 'keys of the node level, started by up.sh'],
    ['test/cluster/node-tools.ts', 'Debian programs of the node level, started by up.sh'],
    ['charts/image/pack.ts', 'images of the test cluster, started by images.sh'],
    ['test/cluster/two-sites.ts', 'the example for the node level, started by install.sh'],
    ['test/cluster/send.ts', 'mail for the node level, started by install.sh'],
    ['test/rigs/pods/pod-machine.ts', 'loaded before a program that plays a pod (node --import)'],
    ['test/rigs/pods/pod-build.ts', 'loaded after it where the pod is of another version (node --import)'],
    ['test/contract/store-holder.ts', 'a process that holds a queue database open until it is killed'],
  ]),
  defaultExports: new Map([['vitest.config.ts', 'vitest reads the default export']]),
  escapes: new Map(),
  sleeps: new Map([
    ['test/house/until.ts', 'the pause between two looks at a state, with a deadline; everybody waits through it'],
  ]),
  longFiles: new Map([['operator/resource/generated.ts', 'generated from the CRDs, as long as they are']]),
};
