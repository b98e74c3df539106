/**
 * A contract between our local schema code (operator/resource) and the real API server: the same CRDs, the same answers. What one accepts
 * the other accepts, what one refuses the other refuses in the same words, and defaults are equal.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, type TestContext } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import { createReader, type LoadedResources, parseResources } from '../../operator/resource/load.ts';
import type { Problem } from '../../operator/resource/problem.ts';
import type { ApiAccess } from '../cluster/api-access.ts';
import type { KubeAnswer, KubeObject } from '../cluster/kube-client.ts';
import { installCrds, readCrds } from '../cluster/shared-cluster.ts';
import { ROOT } from '../house/sources.ts';
import { REFUSALS } from './invalid-examples.ts';
import { ownNamespace, sharedAccess } from './rig.ts';

const EXAMPLES = join(ROOT, 'examples');
const INVALID = join(EXAMPLES, 'invalid');
const yamlFiles = (directory: string): readonly string[] =>
  readdirSync(directory).filter((name) => name.endsWith('.yaml'));
const stem = (name: string): string => name.replace(/\.yaml$/, '');
const api = sharedAccess();
const reader = createReader();

const documentsOf = (text: string): readonly KubeObject[] =>
  parseAllDocuments(text)
    .map((document) => document.toJS() as KubeObject | null)
    .filter((object): object is KubeObject => object !== null && object.kind !== 'Namespace');

const moved = (object: KubeObject, namespace: string): KubeObject => ({
  ...object,
  metadata: { ...object.metadata, namespace },
});

/** Nothing is kept: every example can be tried in one namespace. */
async function tryAll(access: ApiAccess, context: TestContext, text: string): Promise<readonly KubeAnswer[]> {
  const namespace = await ownNamespace(access, context);
  const answers: KubeAnswer[] = [];
  for (const object of documentsOf(text)) {
    answers.push(await access.client.create(moved(object, namespace), { dryRun: true }));
  }
  return answers;
}

const refusalsOf = (answers: readonly KubeAnswer[]): readonly KubeAnswer[] =>
  answers.filter(({ status }) => status >= 300);
const causesOf = ({ body }: KubeAnswer): readonly { readonly field: string; readonly message: string }[] =>
  body.details?.causes ?? [];

describe('CRDs', () => {
  it('are established, structural, without a warning, and applying them again changes nothing', async (context) => {
    const { client } = api(context);
    for (const crd of await readCrds()) {
      const path = `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${crd.metadata.name}`;
      const before = await client.get(path);
      const conditions = Object.fromEntries(
        (before.status.conditions as KubeObject[]).map(({ type, status }) => [type, status]),
      );
      expect(conditions).toEqual({ NamesAccepted: 'True', Established: 'True' });
      expect(before.status.storedVersions).toEqual(['v1alpha1']);
      const again = await client.apply(crd, { fieldManager: 'mailcluster-crds', force: false });
      expect({ status: again.status, warnings: again.warnings }).toEqual({ status: 200, warnings: [] });
      expect(again.body.metadata.resourceVersion).toBe(before.metadata.resourceVersion);
    }
  });

  it('can be installed twice by the shared way', async (context) => installCrds(api(context)));
});

describe('valid examples', () => {
  it.for(yamlFiles(EXAMPLES))('%s is accepted without a warning', async (name, context) => {
    const answers = await tryAll(api(context), context, readFileSync(join(EXAMPLES, name), 'utf8'));
    expect(answers.map(({ status, body }) => (status === 201 ? 201 : body.message))).toEqual(answers.map(() => 201));
    expect(answers.flatMap(({ warnings }) => warnings)).toEqual([]);
  });

  it.for(yamlFiles(EXAMPLES))('%s has the same defaults here as on the API server', async (name, context) => {
    const text = readFileSync(join(EXAMPLES, name), 'utf8');
    const loaded = parseResources([{ file: name, text }], reader, { missingReferences: 'note' });
    if (!loaded.ok) throw new Error(loaded.problems.map(({ problem }) => problem).join('; '));
    const answers = await tryAll(api(context), context, text);
    const served = answers
      .map(({ body }) => body)
      .filter(({ apiVersion }) => apiVersion.startsWith('mailcluster.dev/'));
    expect(served.length).toBeGreaterThan(0);
    for (const { kind, metadata, spec } of served) {
      expect({ kind, name: metadata.name, spec }).toEqual({
        kind,
        name: metadata.name,
        spec: specOf(loaded, kind, metadata.name),
      });
    }
  });
});

function specOf(loaded: LoadedResources, kind: string, name: string): unknown {
  const all = [...loaded.clusters, ...loaded.databases, ...loaded.resubmitRequests, ...loaded.transportOrders];
  return all.find((resource) => resource.kind === kind && resource.metadata.name === name)?.spec;
}

describe('invalid examples', () => {
  const names = yamlFiles(INVALID);
  const by = (who: string): readonly string[] =>
    names.filter((name) => (REFUSALS.get(stem(name))?.by ?? 'rule') === who);

  it('lists no example that does not exist', () => {
    expect([...REFUSALS.keys()].filter((name) => !names.includes(`${name}.yaml`))).toEqual([]);
  });

  it.for(by('rule'))('%s is refused by a rule, in the words of our validator', async (name, context) => {
    const text = readFileSync(join(INVALID, name), 'utf8');
    const ours = ourProblem(name, text);
    const refused = refusalsOf(await tryAll(api(context), context, text));
    expect(refused.map(({ status }) => status)).toEqual([422]);
    const [refusal] = refused;
    if (refusal === undefined) return;
    expect(refusal.body.message).toContain(`${ours.problem}; ${ours.fix}`);
    // The field of the rule; ours is the same or, where a rule looks at a list, the entry which broke it.
    const words = `${ours.problem}; ${ours.fix}`;
    const [said, ...more] = causesOf(refusal).filter(({ message }) => message.endsWith(words));
    expect({ startsWith: ours.path.startsWith(said?.field ?? '?'), more }).toEqual({ startsWith: true, more: [] });
    // Other rules which read the same broken value complain too on the API server; our validator leaves out what only follows.
    const field = /\w+$/.exec(ours.path)?.[0] ?? '?';
    const strangers = causesOf(refusal).filter(({ message }) => !message.endsWith(words) && !message.includes(field));
    expect(strangers).toEqual([]);
    // A rule that cannot even be evaluated on such a value would say so in words that help nobody.
    expect(causesOf(refusal).filter(({ message }) => /evaluat|no such overload/i.test(message))).toEqual([]);
  });

  it.for(by('schema'))('%s is refused by the schema, with field and fix', async (name, context) => {
    const expected = REFUSALS.get(stem(name));
    if (expected?.by !== 'schema') throw new Error(`${name} is not listed`);
    const text = readFileSync(join(INVALID, name), 'utf8');
    const refused = refusalsOf(await tryAll(api(context), context, text));
    expect(refused.length).toBe(1);
    for (const words of [expected.field, ...expected.says]) expect(refused[0]?.body.message).toContain(words);
  });

  it.for(by('kubectl'))('%s does not get past kubectl', async (name, context) => {
    const expected = REFUSALS.get(stem(name));
    if (expected?.by !== 'kubectl') throw new Error(`${name} is not listed`);
    const { code, stderr } = await api(context).kubectl(['apply', '--dry-run=server', '-f', join(INVALID, name)]);
    expect(code).not.toBe(0);
    for (const words of expected.says) expect(stderr).toContain(words);
  });

  it.for(by('validate'))('%s takes two objects to see: the API server accepts each', async (name, context) => {
    const text = readFileSync(join(INVALID, name), 'utf8');
    ourProblem(name, text);
    expect(refusalsOf(await tryAll(api(context), context, text)).map(({ body }) => body.message)).toEqual([]);
  });
});

/** What `mailcluster validate` says; it says it in the words of the first line of the example. */
function ourProblem(name: string, text: string): Problem {
  const loaded = parseResources([{ file: name, text }], reader);
  const [problem] = loaded.ok ? [] : loaded.problems;
  if (problem === undefined) throw new Error(`${name} is valid for us`);
  return problem;
}

describe('changes', () => {
  const base = (file: string, kind: string): KubeObject => {
    const found = documentsOf(readFileSync(join(EXAMPLES, file), 'utf8')).find((object) => object.kind === kind);
    if (found === undefined) throw new Error(`${file} has no ${kind}`);
    return found;
  };

  it('the queue volume of a MailCluster cannot shrink, and can grow', async (context) => {
    const { client } = api(context);
    const namespace = await ownNamespace(api(context), context);
    const object = moved(base('two-site-dag.yaml', 'MailCluster'), namespace);
    const sized = (size: string): KubeObject => ({
      ...object,
      spec: { ...object.spec, transport: { ...object.spec.transport, storage: { size } } },
    });
    await client.mustApply(sized('20Gi'));
    const refused = await client.apply(sized('10Gi'));
    expect(refused.status).toBe(422);
    expect(refused.body.message).toContain(
      'storage.size cannot shrink, volumes only grow; keep the former size or a larger one',
    );
    expect((await client.apply(sized('1Ti'))).status).toBe(200);
  });

  it('a MailboxDatabase stays with its cluster', async (context) => {
    const { client } = api(context);
    const object = moved(base('two-site-dag.yaml', 'MailboxDatabase'), await ownNamespace(api(context), context));
    await client.mustApply(object);
    const refused = await client.apply({ ...object, spec: { ...object.spec, clusterRef: { name: 'elsewhere' } } });
    expect(refused.status).toBe(422);
    expect(refused.body.message).toContain(
      'clusterRef cannot change; create a database in the other cluster and move the mailboxes',
    );
  });

  it('a ResubmitRequest can be cancelled, once, and nothing else', async (context) => {
    const { client } = api(context);
    const namespace = await ownNamespace(api(context), context);
    const object = moved(
      parse(`
apiVersion: mailcluster.dev/v1alpha1
kind: ResubmitRequest
metadata: { name: once }
spec:
  clusterRef: { name: contoso }
  selector: { sender: alice@contoso.com }
  window: { from: "2026-01-01T00:00:00Z", to: "2026-01-02T00:00:00Z" }
`) as KubeObject,
      namespace,
    );
    const withSpec = (spec: KubeObject): KubeObject => ({ ...object, spec: { ...object.spec, ...spec } });
    await client.mustApply(object);
    const changed = await client.apply(withSpec({ selector: { sender: 'bob@contoso.com' } }));
    expect(changed.body.message).toContain(
      'a request cannot change, only be cancelled; set cancel to true and create another',
    );
    expect((await client.apply(withSpec({ cancel: true }))).status).toBe(200);
    const resumed = await client.apply(withSpec({ cancel: false }));
    expect(resumed.body.message).toContain('a cancelled request cannot go on; create another');
  });

  it('status is a subresource: a spec write leaves it, a status write leaves the spec', async (context) => {
    const { client } = api(context);
    const object = moved(base('two-site-dag.yaml', 'MailCluster'), await ownNamespace(api(context), context));
    const created = await client.mustApply({ ...object, status: { membersReady: '9/9' } });
    expect(created.status).toBeUndefined();
    const { apiVersion, kind, metadata } = object;
    const status = { membersReady: '3/4', observedGeneration: 1 };
    await client.mustApply({ apiVersion, kind, metadata, status }, { subresource: 'status', fieldManager: 'operator' });
    const after = await client.mustApply({ ...object, status: { membersReady: '9/9' } });
    expect(after.status).toEqual(status);
    expect(after.metadata.generation).toBe(1);
  });
});
