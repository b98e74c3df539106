/** Small resources and the documents they give, for the tests of operator/topology.ts. */
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import type { TopologyDocument } from '../../common/config.ts';
import { createReader, parseResources } from '../../operator/resource/load.ts';
import { renderProblem } from '../../operator/resource/problem.ts';
import { type Decisions, NO_DECISIONS, nextTopology, planMembers } from '../../operator/topology.ts';

const reader = createReader();

export interface Shape {
  readonly name?: string;
  readonly sites?: string;
  readonly dags?: string;
  readonly spec?: string;
  readonly databases?: string;
  readonly decisions?: Partial<Decisions>;
  readonly requests?: string;
  readonly requestedAtMs?: number;
  readonly nowMs?: number;
}

export const NOW_MS = Date.UTC(2026, 0, 2, 3, 4, 5);
export const HOUR_MS = 3_600_000;

export const DATABASE = `---
apiVersion: mailcluster.dev/v1alpha1
kind: MailboxDatabase
metadata: { name: db01 }
spec:
  clusterRef: { name: contoso }
  dag: dag1
  recipients: { domains: [contoso.com], addresses: [Bob@Contoso.COM] }
  copies:
    - { name: sea, site: seattle, lmtp: "maildir:mail/sea" }
    - { name: pdx, site: portland, lmtp: "[2001:db8::24]:2424", replayLag: 1h }
  activeCopy: sea
`;

export function resources(shape: Shape = {}) {
  const text = `apiVersion: mailcluster.dev/v1alpha1
kind: MailCluster
metadata: { name: ${shape.name ?? 'contoso'} }
spec:
  sites: ${shape.sites ?? '[{ name: seattle }, { name: portland }]'}
  dags: ${shape.dags ?? '[{ name: dag1, members: [{ site: seattle, replicas: 2 }, { site: portland, replicas: 2 }] }]'}
  acceptedDomains: [{ name: contoso.com }]
${shape.spec ?? ''}
${shape.databases ?? DATABASE}${shape.requests ?? ''}`;
  const result = parseResources([{ file: fileURLToPath(import.meta.url), text }], reader);
  if (!result.ok) throw new Error(result.problems.map(renderProblem).join('\n'));
  const [cluster] = result.clusters;
  if (cluster === undefined) throw new Error('no cluster');
  return { ...result, cluster };
}

export function next(previous: TopologyDocument | null, shape: Shape = {}) {
  const { cluster, databases, configMaps, resubmitRequests } = resources(shape);
  const addresses = new Map(
    planMembers(cluster).transports.map(({ name }, index) => [name, { host: '127.0.0.1', port: 2000 + index }]),
  );
  const resolveMaildir = (database: string, copy: string, path: string) => {
    expect([database, copy, path]).toEqual(['db01', 'sea', 'mail/sea']);
    return { host: '127.0.0.1', port: 24 };
  };
  const nowMs = shape.nowMs ?? NOW_MS;
  const createdAtMs = shape.requestedAtMs ?? nowMs;
  return nextTopology(previous, {
    cluster,
    databases,
    configMaps,
    addresses,
    resolveMaildir,
    decisions: { ...NO_DECISIONS, ...shape.decisions },
    requests: resubmitRequests.map((request) => ({ request, createdAtMs })),
    nowMs,
  });
}

export const UNDECIDED = { decisions: NO_DECISIONS, requests: [], nowMs: NOW_MS };

export function document(previous: TopologyDocument | null, shape: Shape = {}): TopologyDocument {
  const result = next(previous, shape);
  if (result.kind === 'refused') throw new Error(result.reasons.join('\n'));
  return result.document;
}
