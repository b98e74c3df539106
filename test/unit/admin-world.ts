/**
 * Admin APIs with certificates of a real authority over prepared views, and a run.json that names them. For `admin.test.ts` and
 * `cli.test.ts`. Owns: servers and a temporary directory; `close` ends and removes them.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CopyId, Envelope, Identity } from '../../common/message.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { type MetricsServer, startMetricsServer } from '../../common/platform/metrics-server.ts';
import type { PeerRole } from '../../common/platform/net.ts';
import { nodeFiles } from '../../common/platform/node-files.ts';
import type { PersonRole } from '../../common/platform/peer-identity.ts';
import type { RunFile } from '../../operator/local/run-file.ts';
import { type Authority, createAuthority, issueCertificate } from '../../operator/pki.ts';
import { type AdminServer, startAdminServer } from '../../transport/runtime/admin.ts';
import {
  openTracking,
  type RecordedOutcome,
  type TrackingFiles,
  type TrackingSearch,
} from '../../transport/runtime/tracking.ts';
import type { TrackingRecord } from '../../transport/runtime/tracking-api.ts';
import type { TrackingGaps } from '../../transport/runtime/tracking-gaps.ts';
import type {
  KnownCopy,
  MessageDetail,
  MessageSummary,
  NextHopView,
  ResubmitView,
  RouteView,
  SafetyNetListing,
  TransportStatus,
  TransportView,
} from '../../transport/runtime/view.ts';
import type { SafetyNetEntry, SafetyNetPosition } from '../../transport/store/database.ts';

import { startFormerAdmin } from './former-admin.ts';

export const NOW_MS = Date.UTC(2026, 0, 2, 3, 4, 5);
export const ID = '01JABCDEFGHJKMNPQRSTVWXYZ0' as CopyId;

export function status(name: string, more: Partial<TransportStatus> = {}): TransportStatus {
  const empty = { messages: 0, bytes: 0, oldestMs: null };
  return {
    name,
    site: 'seattle',
    dag: 'dag1',
    boundary: 'dag/dag1',
    identity: `IDENTITY-${name}`,
    openCounter: 1,
    state: 'ready',
    generation: 1,
    queues: {
      submission: empty,
      delivery: { messages: 2, bytes: 2_048, oldestMs: NOW_MS - 5_000 },
      unreachable: empty,
      poison: empty,
      shadow: { messages: 3, bytes: 3_000, oldestMs: NOW_MS - 5_000 },
      primarySafetyNet: empty,
      shadowSafetyNet: empty,
    },
    safetyNet: {
      primary: { messages: 11, bytes: 1_000 },
      shadow: { messages: 7, bytes: 900 },
      oldestMs: NOW_MS - 60_000,
      completeSinceMs: 0,
    },
    unprotected: 0,
    discardsPending: 0,
    quarantined: 0,
    scrub: {
      isRunning: false,
      doneBytes: 0,
      leftBytes: 0,
      bytesPerS: 500_000,
      isTooSlow: false,
      lastFullPassMs: NOW_MS - 3_600_000,
    },
    backPressure: 'Normal',
    pressedBy: '',
    drain: { state: 'none', copies: 0, safetyNet: 0, tombstones: 0, waitingFor: [] },
    lost: [],
    peers: [{ member: 'other', connected: true, lastContactMs: NOW_MS - 100, identity: 'X', problem: null }],
    space: { totalBytes: 1, liveBytes: 1, safetyNetBytes: 0, freeBytes: 1, segments: 1 },
    unvalidatedResolvers: [],
    ...more,
  };
}

const envelope: Envelope = {
  reversePath: 'ann@example.org',
  recipients: [{ address: 'bob@contoso.com' }],
  body: '8BITMIME',
  smtputf8: false,
  declaredSizeBytes: null,
  client: { address: '192.0.2.1', port: 4_711, helo: 'client', protocol: 'ESMTP', tls: null, user: null },
  frontend: 'front-0',
  listener: 'smtp',
  receivedAtMs: NOW_MS - 10_000,
};

export function detail(queue: 'delivery' | 'shadow'): MessageDetail {
  const owner = 'IDENTITY-a' as Identity;
  return {
    facts: {
      id: ID,
      ancestor: null,
      kind: 'message',
      envelope,
      digest: 'abc123',
      sizeBytes: 4_096,
      acceptedAtMs: NOW_MS - 9_000,
      takenFrom: null,
      events: [{ event: 'FRONTEND', atMs: NOW_MS - 10_000, source: 'front-0', detail: 'MAIL FROM' }],
    },
    state: {
      queue,
      epoch: { try: 1, term: 0, owner },
      standing: 'released',
      abortedThrough: 0,
      recipients: [
        {
          address: 'bob@contoso.com',
          outcome: 'pending',
          database: 'db01',
          reply: '451 4.3.2 \u001b[31mtry later\u001b[0m',
        },
      ],
      placements: [
        {
          identity: owner,
          member: queue === 'shadow' ? 'a' : 'b',
          epoch: { try: 1, term: 0, owner },
          status: 'confirmed',
        },
      ],
      ageMs: 9_000,
      finalAtMs: null,
      unprotected: null,
      suspended: false,
      crashCount: 0,
      delayed: false,
      dsns: [],
      attempts: 1,
    },
  };
}

export function summary(queue: 'delivery' | 'shadow', id: CopyId = ID): MessageSummary {
  return {
    id,
    crossedFrom: null,
    queue,
    role: queue === 'shadow' ? 'shadow' : 'primary',
    from: 'ann@example.org',
    recipients: [{ address: 'bob@contoso.com', outcome: 'pending' }],
    sizeBytes: 4_096,
    acceptedAtMs: NOW_MS - 9_000,
    ageMs: 9_000,
    holders: [],
    nextHops: queue === 'shadow' ? [] : ['db01/sea'],
    lastError: null,
    nextAttemptMs: null,
    suspended: false,
  };
}

export interface MemberContents {
  readonly status: TransportStatus;
  readonly messages: readonly MessageSummary[];
  readonly details: ReadonlyMap<string, MessageDetail>;
  readonly records: readonly TrackingRecord[];
  readonly resubmits?: readonly ResubmitView[];
  readonly known?: readonly KnownCopy[];
  readonly outcomes?: readonly RecordedOutcome[];
  readonly gaps?: TrackingGaps;
  /** Only what `former-admin.ts` has, and that many answers. */
  readonly former?: { readonly answers: number };
  readonly lost?: readonly CopyId[];
  readonly route?: Partial<RouteView>;
  readonly nextHop?: Partial<NextHopView>;
  /** Of every message here. */
  readonly body?: () => AsyncIterable<Buffer>;
  /** Beside that of db01. */
  readonly moreHops?: readonly NextHopView[];
  /** One page each. */
  readonly net?: readonly (readonly SafetyNetEntry[])[];
}

export const ENTRY: SafetyNetEntry = {
  id: ID,
  role: 'primary',
  databases: ['db01'],
  finalAtMs: NOW_MS - 1_000,
  sizeBytes: 4_096,
};

export const ROUTE: RouteView = {
  ...{ kind: 'connector', site: 'seattle', what: 'send connector out, to its smart hosts', why: 'cost 1' },
  ...{ nextHop: 'connector:out', others: [{ name: 'dear', why: 'cost 9 is higher' }], policy: null },
  ...{ hosts: ['relay:25, TLS when offered'], hostsProblem: null, waiting: 0, nextRetryMs: null, lastError: null },
  path: null,
};

/** The cursor of a page is its number. */
function page(contents: MemberContents, after: string | undefined): SafetyNetListing {
  const pages = contents.net ?? [[ENTRY]];
  const index = Number(after ?? 0);
  const next = index + 1 < pages.length ? (String(index + 1) as SafetyNetPosition) : null;
  return { entries: pages[index] ?? [], unreadable: 0, next };
}

export const CONTENTS: Readonly<Record<'a' | 'b', MemberContents>> = {
  a: {
    status: status('a'),
    messages: [summary('delivery')],
    details: new Map([[ID, detail('delivery')]]),
    records: [
      { atMs: NOW_MS - 10_000, event: 'FRONTEND', source: 'front-0', attemptId: ID, detail: 'FRONTEND MAIL FROM' },
      {
        atMs: NOW_MS - 9_000,
        event: 'RECEIVE',
        source: 'a',
        attemptId: ID,
        messageId: '<4711@example.org>',
        from: 'ann@example.org',
      },
      { atMs: NOW_MS - 9_000, event: 'HAREDIRECT', source: 'a', attemptId: ID, peer: 'b' },
      {
        atMs: NOW_MS - 4_000,
        event: 'DELIVER',
        source: 'a',
        attemptId: ID,
        recipients: ['bob@contoso.com'],
        detail: '250 2.0.0 saved',
      },
    ],
  },
  b: {
    status: status('b', { site: 'portland' }),
    messages: [summary('shadow')],
    details: new Map([[ID, detail('shadow')]]),
    records: [
      { atMs: NOW_MS - 8_990, event: 'HARECEIVE', source: 'b', attemptId: ID, peer: 'a' },
      { atMs: NOW_MS - 3_000, event: 'HADISCARD', source: 'b', attemptId: ID, peer: 'a' },
    ],
  },
};

/** Questions asked of the view, as the API passed them on. */
export type Asked = { readonly what: string; readonly arguments: readonly unknown[] };

// biome-ignore lint/correctness/useYield: a body that cannot be read
async function* notFound(): AsyncIterable<Buffer> {
  throw new Error('not found');
}

function viewOf(contents: MemberContents, asked: Asked[]): TransportView {
  return {
    resubmits: () => contents.resubmits ?? [],
    known: async (ids) => (contents.known ?? []).filter((one) => ids.includes(one.id)),
    lostMessages: () => contents.lost ?? [],
    route: async (address, sizeBytes) => {
      asked.push({ what: 'route', arguments: [address, sizeBytes] });
      return { ...ROUTE, site: contents.status.site, ...contents.route };
    },
    status: () => contents.status,
    nextHops: () => [
      {
        queue: 'delivery',
        nextHop: 'db01/sea',
        messages: 2,
        active: 0,
        deferred: 0,
        suspended: false,
        oldestAgeMs: 9_000,
        nextRetryMs: NOW_MS + 60_000,
        lastError: '451 4.3.2 try later',
        ...contents.nextHop,
      },
      ...(contents.moreHops ?? []),
    ],
    messages: (filter, after, limit) => {
      asked.push({ what: 'messages', arguments: [filter, after, limit] });
      const { queue, nextHop, attempt } = filter;
      const found = contents.messages
        .filter((one) => (queue === null || one.queue === queue) && (after === null || one.id > after))
        .filter((one) => nextHop === null || one.nextHops.includes(nextHop))
        .filter((one) => attempt === null || one.id === attempt || one.crossedFrom === attempt);
      return { messages: found.slice(0, limit), next: (found.length > limit && found[limit - 1]?.id) || null };
    },
    body: (id) => {
      asked.push({ what: 'body', arguments: [id] });
      return (contents.body ?? notFound)();
    },
    message: async (id) => {
      if (id === 'BROKEN') throw new Error('damaged record');
      return contents.details.get(id) ?? null;
    },
    safetyNet: async (question, limit) => {
      asked.push({ what: 'safetyNet', arguments: [question, limit] });
      return page(contents, question.filter.after);
    },
    countSafetyNet: async (question) => {
      asked.push({ what: 'countSafetyNet', arguments: [question] });
      const { entries, next } = page(contents, question.filter.after);
      const of = (role: string) => entries.filter((entry) => entry.role === role);
      const tally = (role: string) => ({ messages: of(role).length, bytes: of(role).length * 1_000 });
      return { primary: tally('primary'), shadow: tally('shadow'), unreadable: 0, next };
    },
  };
}

export class AdminWorld {
  readonly directory: string;
  readonly authority: Authority;
  readonly asked: Asked[] = [];
  /** Ids that a member of a former version was asked for, one by one. */
  readonly askedFormer: string[] = [];
  readonly #admins = new Map<string, Pick<AdminServer, 'close'>>();
  readonly #metrics: MetricsServer[] = [];
  readonly #tracking: TrackingFiles[] = [];

  private constructor(directory: string, authority: Authority) {
    this.directory = directory;
    this.authority = authority;
  }

  static async open(): Promise<AdminWorld> {
    return new AdminWorld(await mkdtemp(join(tmpdir(), 'mailcluster-admin-')), await createAuthority('contoso'));
  }

  async identity(role: PeerRole | PersonRole, name: string, cluster = 'contoso', authority = this.authority) {
    const pems = await issueCertificate(authority, { cluster, role, name, hosts: ['localhost'], days: 2 });
    return { ca: this.authority.certificatePem, certificate: pems.certificatePem, key: pems.keyPem };
  }

  async admin(name: string, contents: MemberContents): Promise<number> {
    if (contents.former !== undefined) {
      const pems = await this.identity('transport', name);
      const tracking = await this.#trackingOf(name, contents);
      const former = await startFormerAdmin(pems, tracking, { ids: this.askedFormer, ...contents.former });
      this.#admins.set(name, former);
      return former.port;
    }
    const admin = await startAdminServer({
      address: { host: '127.0.0.1', port: 0 },
      identity: await this.identity('transport', name),
      cluster: 'contoso',
      view: viewOf(contents, this.asked),
      tracking: await this.#trackingOf(name, contents),
      logger: silentLogger,
    });
    this.#admins.set(name, admin);
    return admin.port;
  }

  async #trackingOf(name: string, { records, outcomes, gaps }: MemberContents): Promise<TrackingSearch> {
    const tracking = await openTracking({
      directory: join(this.directory, `tracking-${name}`),
      files: nodeFiles,
      clock: systemClock,
      logger: silentLogger,
      metrics: { increment: () => undefined, set: () => undefined, observe: () => undefined },
    });
    this.#tracking.push(tracking);
    for (const record of records) tracking.record(record);
    return {
      search: (ids, limit) => tracking.search(ids, limit),
      find: (question, limit) => tracking.find(question, limit),
      gaps: async () => gaps ?? (await tracking.gaps()),
      outcomes: async (ids) => outcomes?.filter((one) => ids.has(one.id)) ?? tracking.outcomes(ids),
    };
  }

  async stopAdmin(name: string): Promise<void> {
    await this.#admins.get(name)?.close();
  }

  /** Two transports, one front end, and the run.json that says so. */
  async cluster(contents: Readonly<Record<'a' | 'b', MemberContents>> = CONTENTS): Promise<RunFile> {
    const text = async (): Promise<string> => 'nothing\n';
    const metrics = await startMetricsServer(
      { host: '127.0.0.1', port: 0 },
      { contentType: 'text/plain', render: text },
      () => ({ ready: true }),
    );
    this.#metrics.push(metrics);
    const operator = await this.identity('operator', 'cli');
    const file = async (name: string, contents: string): Promise<string> => {
      const path = join(this.directory, name);
      await writeFile(path, contents);
      return path;
    };
    const transport = async (name: 'a' | 'b', site: string) => ({
      name,
      dag: 'dag1',
      site,
      pid: 100,
      queueDatabaseDirectory: join(this.directory, name),
      adminUrl: `https://127.0.0.1:${await this.admin(name, contents[name])}`,
      metricsUrl: 'http://127.0.0.1:1/metrics',
    });
    const run: RunFile = {
      version: 1,
      cluster: 'contoso',
      pid: 99,
      state: this.directory,
      generation: 1,
      topologyFile: join(this.directory, 'topology.json'),
      operatorTls: {
        caFile: await file('ca.crt', operator.ca),
        certificateFile: await file('cli.crt', operator.certificate),
        keyFile: await file('cli.key', operator.key),
      },
      listeners: [{ name: 'smtp', host: '127.0.0.1', port: 2_525, frontend: 'front-0' }],
      frontends: [
        { name: 'front-0', site: 'seattle', pid: 101, metricsUrl: `http://127.0.0.1:${metrics.port}/metrics` },
      ],
      transports: [await transport('a', 'seattle'), await transport('b', 'portland')],
      stores: [
        {
          name: 'store-db01-sea',
          database: 'db01',
          copy: 'sea',
          pid: 102,
          host: '127.0.0.1',
          port: 24,
          maildir: '/mail',
        },
      ],
    };
    await file('run.json', JSON.stringify(run));
    return run;
  }

  /** The topology document the commands read beside run.json. */
  async topology(document: object): Promise<void> {
    await writeFile(join(this.directory, 'topology.json'), JSON.stringify(document));
  }

  /** Lines of a log, as pino writes them. */
  async frontendLog(name: string, lines: readonly object[]): Promise<void> {
    await mkdir(join(this.directory, 'logs'), { recursive: true });
    const text = lines.map((line) => `${JSON.stringify(line)}\n`).join('');
    await writeFile(join(this.directory, 'logs', name), text);
  }

  async close(): Promise<void> {
    for (const admin of this.#admins.values()) await admin.close();
    for (const server of this.#metrics) await server.close();
    for (const tracking of this.#tracking) await tracking.close();
    await rm(this.directory, { recursive: true, force: true });
  }
}
