/**
 * `kubectl mailcluster report`: everything that helps to find out what is wrong, in one archive that can be given away. Owns: what is in it.
 * Promise: Secrets and messages are never read; all that is written went through `redaction.ts`; what could not be had is named in
 * `report.json` and on the terminal, and everything else is there. Exit 1 when something could not be had.
 */
import { writeFile } from 'node:fs/promises';
import { gzipSync } from 'node:zlib';
import { VERSION } from '../../common/platform/build-info.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { type ArchiveFile, tar } from '../../common/tar.ts';
import { get, reasonOf } from '../admin-client.ts';
import { describeFailure, failureOf } from '../kube/failures.ts';
import { HttpChannel } from '../kube/http-channel.ts';
import {
  CONFIG_MAP,
  DEPLOYMENT,
  EVENT,
  HORIZONTAL_POD_AUTOSCALER,
  MAILBOX_DATABASE,
  NETWORK_POLICY,
  PERSISTENT_VOLUME_CLAIM,
  POD,
  POD_DISRUPTION_BUDGET,
  RESUBMIT_REQUEST,
  SERVICE,
  STATEFUL_SET,
} from '../kube/kinds.ts';
import { type KubeObject, objectPath, queryOf, type ResourceKind } from '../kube/kube-object.ts';
import { NoCluster } from '../local/cluster.ts';
import { LABEL, PORT } from '../resources/names.ts';
import { COMMON_HELP, type Command, type CommandContext, parse, text } from './command.ts';
import {
  chosen,
  findCluster,
  type KubeAccess,
  listAll,
  type MailClusterObject,
  openKube,
  USER_AGENT,
} from './kube-access.ts';
import { type KubeMembers, reach } from './kube-place.ts';
import { count, json, size } from './output.ts';
import { Redaction } from './redaction.ts';

/** What the operator makes for a cluster, by its label. Secrets are not here. */
const MADE: readonly ResourceKind[] = [
  POD,
  STATEFUL_SET,
  DEPLOYMENT,
  SERVICE,
  CONFIG_MAP,
  PERSISTENT_VOLUME_CLAIM,
  POD_DISRUPTION_BUDGET,
  NETWORK_POLICY,
  HORIZONTAL_POD_AUTOSCALER,
];
const RESOURCES: readonly ResourceKind[] = [MAILBOX_DATABASE, RESUBMIT_REQUEST];
/** Of the admin API; no message is read. */
const QUESTIONS = ['status', 'next-hops', 'resubmit', 'lost', 'safety-net/count'] as const;
const LOG_LINES = 5_000;
const LOG_BYTES = 4 << 20;

class Bundle {
  readonly files: ArchiveFile[] = [];
  readonly missing: { readonly what: string; readonly reason: string }[] = [];
  readonly #redaction = new Redaction(systemRandom.bytes(16).toString('hex'));

  value(name: string, value: unknown): void {
    this.files.push({ name, content: json(this.#redaction.value(value)) });
  }

  log(name: string, content: string): void {
    this.files.push({ name, content: this.#redaction.log(content) });
  }

  /** One thing that cannot be had does not spoil the others. */
  async part(what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.missing.push({
        what,
        reason: this.#redaction.text(error instanceof NoCluster ? error.message : reasonOf(error)),
      });
    }
  }
}

async function objects(bundle: Bundle, access: KubeAccess, cluster: MailClusterObject): Promise<readonly KubeObject[]> {
  const { name } = cluster.metadata;
  const { namespace } = access;
  let pods: readonly KubeObject[] = [];
  bundle.value('mailcluster.json', cluster);
  for (const kind of RESOURCES)
    await bundle.part(kind.plural, async () => {
      const all = await listAll<KubeObject>(access, kind, namespace);
      const ours = all.filter(({ spec }) => (spec as { clusterRef?: { name?: string } }).clusterRef?.name === name);
      bundle.value(`${kind.plural}.json`, ours);
    });
  for (const kind of MADE)
    await bundle.part(kind.plural, async () => {
      const found = await listAll<KubeObject>(access, kind, namespace, `${LABEL.cluster}=${name}`);
      if (kind === POD) pods = found;
      bundle.value(`${kind.plural}.json`, found);
    });
  await bundle.part('events', async () => {
    const all = await listAll<KubeObject & { readonly regarding?: { readonly name?: string } }>(
      access,
      EVENT,
      namespace,
    );
    bundle.value(
      'events.json',
      all.filter(({ regarding }) => regarding?.name?.startsWith(name) === true),
    );
  });
  return pods;
}

async function answers(bundle: Bundle, members: KubeMembers): Promise<void> {
  for (const question of QUESTIONS)
    for (const asked of await members.askAll<unknown>(`/v1/${question}`)) {
      const { member } = asked;
      if (asked.kind === 'answer') bundle.value(`members/${member}/${question.replace('/', '-')}.json`, asked.value);
      else if (asked.kind === 'unreachable')
        bundle.missing.push({ what: `${question} of ${member}`, reason: asked.reason });
    }
}

async function metrics(bundle: Bundle, { forwarding, access }: KubeMembers, pod: string): Promise<void> {
  await bundle.part(`metrics of ${pod}`, async () => {
    const options = { agent: forwarding.plain as never, deadlineMs: access.timeoutMs };
    const { status, body } = await get(`http://${pod}:${PORT.metrics}/metrics`, null, pod, options);
    if (status !== 200) throw new Error(`it answered ${status}`);
    bundle.log(`pods/${pod}/metrics.txt`, body);
  });
}

interface LoggedPod extends KubeObject {
  readonly spec?: { readonly containers?: readonly { readonly name: string }[] };
  readonly status?: {
    readonly containerStatuses?: readonly { readonly name: string; readonly restartCount?: number }[];
  };
}

async function logs(bundle: Bundle, access: KubeAccess, channel: HttpChannel, pod: LoggedPod): Promise<void> {
  const { namespace, timeoutMs } = access;
  const { name } = pod.metadata;
  for (const { name: container } of pod.spec?.containers ?? []) {
    const restarts = pod.status?.containerStatuses?.find((one) => one.name === container)?.restartCount ?? 0;
    for (const previous of restarts > 0 ? [false, true] : [false])
      await bundle.part(`log of ${name}`, async () => {
        const query = queryOf({
          container,
          previous: previous || undefined,
          tailLines: LOG_LINES,
          limitBytes: LOG_BYTES,
        });
        const path = `${objectPath(POD, { namespace, name })}/log${query}`;
        const answer = await channel.send({ method: 'GET', path, signal: AbortSignal.timeout(timeoutMs) });
        if (answer.code !== 200) throw new Error(describeFailure(failureOf(answer.code, parsed(answer.body), null)));
        bundle.log(`pods/${name}/${container}${previous ? '.previous' : ''}.log`, answer.body);
      });
  }
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

async function collect(bundle: Bundle, access: KubeAccess, cluster: MailClusterObject, context: CommandContext) {
  const pods = await objects(bundle, access, cluster);
  await bundle.part('members', async () => {
    const members = await reach(access, cluster, context);
    context.atEnd(members.close);
    await answers(bundle, members);
    const running = pods.filter(({ status }) => (status as { phase?: string } | undefined)?.phase === 'Running');
    for (const { metadata } of running) await metrics(bundle, members, metadata.name);
  });
  const channel = new HttpChannel({ identity: access.identity, userAgent: USER_AGENT });
  context.atEnd(() => channel.close());
  for (const pod of pods) await logs(bundle, access, channel, pod as LoggedPod);
}

export const reportCommand: Command = {
  summary: 'a support bundle without secrets and mail',
  help: `Usage: mailcluster report [-f FILE] [--state DIR]

Writes a tar.gz with the MailCluster and its databases and requests, what the operator made, events, and of every member status, queues, metrics
and log. Secrets and messages are not read; passwords, tokens, private keys, subjects are left out of everything else, and local parts of
addresses are replaced (the same ones alike). Look into it before you give it away. Exit code 1 when something could not be had; report.json in it says what.

  -f, --file FILE        default: mailcluster-NAMESPACE-NAME-TIME.tar.gz
${COMMON_HELP}

Examples:
  mailcluster report -f bundle.tar.gz`,
  run: async (args, context) => {
    const parsed = parse(args, context, { file: { type: 'string', short: 'f' } }, [0, 0]);
    const access = await openKube(parsed.values, context);
    context.atEnd(access.close);
    const cluster = await findCluster(access, chosen(parsed.values));
    const { namespace = '', name } = cluster.metadata;
    const at = new Date(context.nowMs()).toISOString().slice(0, 19).replace(/[-:]/g, '');
    const file = text(parsed, 'file') ?? `mailcluster-${namespace}-${name}-${at}.tar.gz`;
    const bundle = new Bundle();
    await collect(bundle, access, cluster, context);
    const { missing } = bundle;
    bundle.value('report.json', { at, by: `kubectl-mailcluster ${VERSION}`, namespace, cluster: name, missing });
    const packed = gzipSync(tar(bundle.files, context.nowMs()));
    try {
      await writeFile(file, packed, { mode: 0o600 });
    } catch (error) {
      throw new NoCluster(`${file} cannot be written (${reasonOf(error)}); say -f with a place that can`);
    }
    const { out, err } = context.output;
    if (parsed.common.format === 'json') out(json({ file, files: bundle.files.length, missing }));
    else
      out(
        `${file}: ${count(bundle.files.length, 'file')}, ${size(packed.length)}. Look into it before you give it away.\n`,
      );
    for (const one of missing) err(`Not in it: ${one.what}: ${one.reason}\n`);
    return missing.length === 0 ? 0 : 1;
  },
};
