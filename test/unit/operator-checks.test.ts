/** Single checks of the plan on plain data: references (issue: bad input), storage (K5), mailbox failover (K8), and what is rendered (section 2). */
import { describe, expect, it } from 'vitest';
import { referredConfigMaps } from '../../operator/gather.ts';
import { plan } from '../../operator/plan.ts';
import { API_VERSION } from '../../operator/resource/api-version.ts';
import { covers } from '../../operator/resources/compare.ts';
import { LABEL } from '../../operator/resources/names.ts';
import type { KubeObject } from '../../operator/resources/objects.ts';
import { ClusterModel } from './cluster-model.ts';
import { DATABASE, TWO_SITES } from './cluster-state.ts';
import { converge, inSite, memberOf, round, running } from './operator-rig.ts';

const progressing = (model: ClusterModel) => model.condition('Progressing');

describe('what the resources refer to', () => {
  it.each([
    [
      'MissingSecret',
      '  frontend: { tlsSecretRef: { name: mail-tls } }\n',
      { name: 'mail-tls', keys: ['tls.crt', 'tls.key'] },
    ],
    [
      'MissingSecret',
      '  frontend: { listeners: [{ name: s, port: 587, tls: StartTlsRequired, auth: { secretRef: { name: u } } }] }\n',
      { name: 'u', keys: ['scanner'] },
    ],
  ] as const)('%s: condition and one event, heals by itself', (reason, text, secret) => {
    const model = running(TWO_SITES + text);
    expect(progressing(model)).toMatchObject({ status: 'False', reason });
    expect(progressing(model)?.message).toContain(secret.name);
    expect(model.said(reason)).toBe(1);
    expect(model.memberNames).toHaveLength(4);
    model.secrets.push({ name: secret.name, keys: [...secret.keys] });
    converge(model);
    expect(progressing(model)).toMatchObject({ status: 'True', reason: 'Converged' });
  });

  it('a key that is missing, a class, a site without nodes', () => {
    const model = running(
      `${TWO_SITES}  frontend: { tlsSecretRef: { name: mail-tls } }\n  transport: { storage: { storageClassName: slow } }\n`,
    );
    model.secrets.push({ name: 'mail-tls', keys: ['tls.crt'] });
    for (const name of ['node-b1', 'node-b2', 'node-b3']) model.nodes.delete(name);
    round(model);
    const message = progressing(model)?.message ?? '';
    expect(message).toContain('tls.key');
    expect(message).toContain('no StorageClass slow');
    expect(message).toContain('site portland: no node has the labels zone=b');
  });

  it('a certificate of people that cannot be used: CertificatesValid says so, nothing else is held up, heals by itself', () => {
    const model = running(`${TWO_SITES}  frontend: { tlsSecretRef: { name: mail-tls } }\n`);
    const keys = ['tls.crt', 'tls.key'];
    model.secrets = [{ name: 'mail-tls', keys, tlsProblem: 'tls.crt is no certificate in PEM' }];
    converge(model);
    expect(model.condition('CertificatesValid')).toMatchObject({
      ...{ status: 'False', reason: 'InvalidCertificate' },
      message: expect.stringContaining('Secret mail-tls: tls.crt is no certificate in PEM'),
    });
    expect(progressing(model)).toMatchObject({ status: 'True', reason: 'Converged' });
    expect(model.said('InvalidCertificate')).toBe(1);
    model.secrets = [{ name: 'mail-tls', keys }];
    converge(model);
    expect(model.condition('CertificatesValid')).toMatchObject({ status: 'True' });
  });

  it('a database that cannot be used stays as it was: its mail is not refused', () => {
    const model = running();
    const before = model.document?.databases;
    // The API server takes it: the rule spans two objects.
    const { databases } = model;
    model.databases = databases.map((one) => ({
      ...one,
      spec: { ...one.spec, recipients: { ...one.spec.recipients, domains: ['other.example'] } },
    }));
    converge(model);
    expect(progressing(model)).toMatchObject({ status: 'False', reason: 'InvalidReference' });
    expect(model.document?.databases).toEqual(before);
    expect(model.databaseStatus.db01).toMatchObject({
      conditions: [{ type: 'Ready', status: 'False', reason: 'InvalidReference' }],
    });
    model.databases = databases;
    converge(model);
    expect(model.databaseStatus.db01).toMatchObject({
      activeCopy: 'sea',
      conditions: [{ type: 'Ready', status: 'True' }],
    });
  });

  it('addresses from a ConfigMap that went away stay in force', () => {
    const model = new ClusterModel(TWO_SITES, {
      db01: DATABASE.replace(
        'recipients: { domains: [contoso.com] }',
        'recipients: { addressesFrom: { configMapRef: { name: people, key: list } } }',
      ),
    });
    const metadata = { name: 'people', namespace: 'mail', labels: {}, annotations: {} };
    model.configMaps = [{ kind: 'ConfigMap', metadata, data: { list: 'ann@contoso.com\n' } }];
    converge(model);
    expect(model.document?.databases[0]?.addresses).toEqual(['ann@contoso.com']);
    model.configMaps = [];
    converge(model);
    expect(model.document?.databases[0]?.addresses).toEqual(['ann@contoso.com']);
    expect(progressing(model)).toMatchObject({ status: 'False', reason: 'MissingConfigMap' });
  });

  it('the ConfigMaps that databases name are those that are gathered', () => {
    const text = DATABASE.replace(
      'recipients: { domains: [contoso.com] }',
      'recipients: { addressesFrom: { configMapRef: { name: people, key: list } } }',
    );
    const { databases } = new ClusterModel(TWO_SITES, { db01: text, db02: DATABASE });
    expect([...referredConfigMaps(databases)]).toEqual(['people']);
  });

  it('an endpoint that is for one machine only', () => {
    const model = running(TWO_SITES, { db01: DATABASE.replace('dovecot-sea.mail.svc:24', 'maildir:mail/sea') });
    expect(progressing(model)).toMatchObject({ status: 'False', reason: 'UnsupportedEndpoint' });
  });

  it('an issuer without cert-manager, then with it', () => {
    const model = running(`${TWO_SITES}  certificates: { issuerRef: { name: corp } }\n`);
    expect(model.condition('CertificatesValid')).toMatchObject({ status: 'False', reason: 'IssuerKindMissing' });
    expect(model.memberNames).toEqual([]);
    model.kinds.certificate = true;
    round(model);
    expect(model.object('Certificate', 'contoso-authority').spec).toMatchObject({
      isCA: true,
      issuerRef: { name: 'corp' },
      // Of other Secrets only the names of their keys are kept.
      secretTemplate: { labels: { [LABEL.cluster]: 'contoso' } },
    });
  });
});

describe('one authority replaces another', () => {
  const both = (text = TWO_SITES) => {
    const model = running(text);
    const pem = '-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n';
    if (model.authority.kind === 'present')
      model.authority = { kind: 'present', view: { ...model.authority.view, trustPem: pem + pem } };
    return model;
  };
  const certificates = (model: ClusterModel) => model.condition('CertificatesValid');

  it('says which members need the former one, and when nobody does; nobody restarts', () => {
    const model = both();
    const pods = [...model.pods.values()].map(({ metadata }) => metadata.uid);
    const [first = '', second = ''] = model.memberNames;
    model.formerCertificates = new Set([first]);
    round(model);
    const wanted = { status: 'False', reason: 'FormerAuthorityNeeded' };
    expect(certificates(model)).toMatchObject({ ...wanted, message: expect.stringMatching(`^${first} may have`) });
    expect(certificates(model)?.message).toContain('keep ca.crt in Secret contoso-authority');
    // Who is silent may have one.
    model.formerCertificates = new Set();
    model.cutOff.set(second, model.nowMs);
    round(model);
    expect(certificates(model)).toMatchObject({ ...wanted, message: expect.stringMatching(`^${second} may have`) });
    model.cutOff.delete(second);
    converge(model);
    expect(certificates(model)).toMatchObject({ status: 'True', reason: 'Valid' });
    expect([...model.pods.values()].map(({ metadata }) => metadata.uid)).toEqual(pods);
  });

  it('says who has not said yet that it trusts both, then that all do; who says nothing for two minutes is named and holds nothing up', () => {
    const model = both();
    const [first = '', second = ''] = model.memberNames;
    model.deaf.add(first).add(second);
    round(model);
    round(model);
    const wanted = { status: 'False', reason: 'TrustNotAcknowledged' };
    const names = (message = '') => message.split(' have not said')[0]?.split(', ');
    expect(certificates(model)).toMatchObject(wanted);
    expect(names(certificates(model)?.message)).toEqual([first, second]);
    model.deaf.delete(first);
    round(model);
    round(model);
    expect(names(certificates(model)?.message)).toEqual([second]);
    model.deaf.delete(second);
    round(model);
    round(model);
    expect(certificates(model)).toMatchObject({ status: 'True', reason: 'Valid' });
    expect(certificates(model)?.message).toMatch(/every pod trusts both authorities \([0-9a-f]{16}\)$/);
    // Another bundle: everybody is asked anew. One says nothing.
    if (model.authority.kind !== 'present') throw new Error('no authority');
    model.authority = {
      kind: 'present',
      view: { ...model.authority.view, trustPem: `${model.authority.view.trustPem}\n` },
    };
    model.deaf.add(second);
    round(model, 60);
    round(model, 59);
    round(model, 2);
    expect(certificates(model)).toMatchObject(wanted);
    round(model, 1);
    expect(certificates(model)).toMatchObject({ status: 'True', reason: 'Valid' });
    for (const condition of [certificates(model), model.condition('Progressing')])
      expect(condition?.message).toContain(`${second} did not say within two minutes`);
    // It speaks after all.
    model.deaf.delete(second);
    round(model);
    round(model);
    expect(certificates(model)?.message).toMatch(/every pod trusts both/);
    expect(model.condition('Progressing')).toMatchObject({ status: 'True', reason: 'Converged' });
  });
});

describe('volumes', () => {
  const larger = `${TWO_SITES}  transport: { storage: { size: 30Gi } }\n`;

  it('grow: claims first, then the StatefulSet is made anew around its pods, nobody restarts', () => {
    const model = running();
    const pods = [...model.pods.values()].map(({ metadata }) => metadata.uid);
    model.change(larger, { db01: DATABASE });
    const done = converge(model).flat();
    expect(done.filter((one) => one.startsWith('resizeClaim'))).toHaveLength(4);
    expect(done.filter((one) => one.startsWith('orphan StatefulSet/'))).toHaveLength(2);
    expect(done.findIndex((one) => one.startsWith('resizeClaim'))).toBeLessThan(
      done.findIndex((one) => one.startsWith('orphan')),
    );
    expect([...model.pods.values()].map(({ metadata }) => metadata.uid)).toEqual(pods);
    expect(model.said('Restarting')).toBe(0);
  });

  it('do not grow where the class does not allow it: said, and nothing else changes', () => {
    const model = running();
    model.expansionAllowed = false;
    model.change(larger, { db01: DATABASE });
    expect(converge(model).flat()).toEqual([]);
    expect(model.condition('StorageHealthy')).toMatchObject({ status: 'False', reason: 'ExpansionNotAllowed' });
  });

  it('never shrink', () => {
    const model = running(larger);
    model.change(TWO_SITES, { db01: DATABASE });
    expect(converge(model).flat()).toEqual([]);
    expect(model.condition('StorageHealthy')).toMatchObject({ status: 'False', reason: 'ShrinkRefused' });
  });

  it('nearly full, then refusing: said by name with the remedy, nothing is done; it heals by itself', () => {
    const model = running();
    const [name = ''] = model.memberNames;
    model.freeBytes = 400 << 20;
    expect(converge(model).flat()).toEqual([]);
    const early = model.condition('StorageHealthy');
    expect(early).toMatchObject({ status: 'False', reason: 'NearlyFull' });
    expect(early?.message).toContain('raise transport.storage.size or lower safetyNet.quota');
    model.freeBytes = 1e9;
    model.pressed.set(name, { backPressure: 'High', pressedBy: 'memory, queue' });
    expect(converge(model).flat()).toEqual([]);
    const late = model.condition('StorageHealthy');
    expect(late).toMatchObject({ status: 'False', reason: 'BackPressure' });
    expect(late?.message).toContain(`${name} refuses mail for want of memory, queue (High) and goes on delivering`);
    model.pressed.clear();
    converge(model);
    expect(model.condition('StorageHealthy')).toMatchObject({ status: 'True' });
  });

  const inClass = (name: string): string =>
    `${TWO_SITES}  transport: { storage: { size: 20Gi, storageClassName: ${name} } }\n`;

  it('of a class that was misspelt: claims that never got one are made anew when it is put right', () => {
    const model = new ClusterModel();
    model.absentClasses.add('fats');
    model.change(inClass('fats'), { db01: DATABASE });
    converge(model);
    expect([...model.claims.values()].map(({ status }) => status?.phase)).toEqual(Array(4).fill('Pending'));
    model.change(inClass('fast'), { db01: DATABASE });
    const done = converge(model).flat();
    expect(done.filter((one) => one.startsWith('deleteClaim'))).toHaveLength(4);
    expect([...model.claims.values()].map(({ status }) => status?.phase)).toEqual(Array(4).fill('Bound'));
    expect(progressing(model)).toMatchObject({ status: 'True', reason: 'Converged' });
  });

  it('that somebody has stay where they are when another class is written', () => {
    const model = running(inClass('fast'));
    const uids = [...model.claims.values()].map(({ metadata }) => metadata.uid);
    model.change(inClass('slow'), { db01: DATABASE });
    converge(model);
    expect([...model.claims.values()].map(({ metadata }) => metadata.uid)).toEqual(uids);
  });

  it('the operator dies after each step of growing', () => {
    for (let limit = 0; limit < 6; limit += 1) {
      const model = running();
      model.change(larger, { db01: DATABASE });
      model.carryOut(plan(model.gather()), limit);
      converge(model);
      expect([...model.claims.values()].every((one) => one.spec?.resources?.requests?.storage === '30Gi')).toBe(true);
      expect(model.memberNames).toHaveLength(4);
    }
  });
});

describe('a mailbox failover', () => {
  const failedOver = (): ClusterModel => {
    const model = running();
    model.change(TWO_SITES, { db01: DATABASE.replace('activeCopy: sea', 'activeCopy: pdx') });
    converge(model);
    return model;
  };
  const name = 'db01-failover-2';

  it('is one generation with its request, which becomes an object with the right window and a status', () => {
    const model = failedOver();
    const [database] = model.document?.databases ?? [];
    expect(database).toMatchObject({ activeCopy: 'pdx', activation: 2 });
    const request = model.object('ResubmitRequest', name);
    expect(request).toMatchObject({
      apiVersion: API_VERSION,
      spec: { clusterRef: { name: 'contoso' }, selector: { database: 'db01' }, reason: 'Failover', lostActivation: 1 },
    });
    const { window } = request.spec as { window: { from: string } };
    const made = model.document?.resubmitRequests[0]?.createdAtMs ?? 0;
    expect(Date.parse(window.from)).toBe(made - 15 * 60_000);
    expect(model.requestStatus[name]).toMatchObject({ state: 'Pending' });
    expect(model.databaseStatus.db01).toMatchObject({ activeCopy: 'pdx', activation: 2 });
    expect(model.said('FailedOver')).toBe(1);
    expect(model.said('ResubmitCreated')).toBe(1);
  });

  it('counts by primaries and by shadows, and is over when everybody is done', () => {
    const model = failedOver();
    const gathered = model.gather();
    const answer = {
      name,
      state: 'Done' as const,
      selected: 5,
      resubmitted: 3,
      byPrimary: 2,
      byShadow: 1,
      present: 0,
      covered: 2,
      failed: 0,
      waitingFor: [],
      completeSinceMs: 0,
      errors: [],
    };
    const members = Object.fromEntries(
      Object.entries(gathered.members).map(([key, one]) => [
        key,
        one.kind === 'answered' ? { ...one, report: { ...one.report, resubmits: [answer] } } : one,
      ]),
    );
    model.carryOut(plan({ ...gathered, members }));
    expect(model.requestStatus[name]).toMatchObject({
      state: 'Completed',
      counts: { resubmitted: 12, byPrimaries: 8, byShadows: 4 },
    });
  });

  it('a request of a person is carried out, and one that cannot be says why; the document is not held up', () => {
    const model = running();
    const request = (own: string, database: string): KubeObject => ({
      apiVersion: API_VERSION,
      kind: 'ResubmitRequest',
      metadata: {
        name: own,
        namespace: 'mail',
        uid: own,
        generation: 1,
        creationTimestamp: new Date(model.nowMs).toISOString(),
      },
      spec: {
        clusterRef: { name: 'contoso' },
        selector: { database },
        window: { from: '2026-01-01T00:00:00Z' },
        reason: 'Manual',
        dryRun: false,
        cancel: false,
      },
    });
    model.objects.set('ResubmitRequest/good', request('good', 'db01'));
    model.objects.set('ResubmitRequest/bad', request('bad', 'db99'));
    converge(model);
    expect(model.document?.resubmitRequests.map((one) => one.name)).toEqual(['good']);
    expect(model.requestStatus.good).toMatchObject({ state: 'Pending' });
    expect(model.requestStatus.bad).toMatchObject({ state: 'Failed', message: expect.stringContaining('db99') });
    model.nowMs += 49 * 3_600_000;
    converge(model);
    expect(model.document?.resubmitRequests).toEqual([]);
    expect(model.requestStatus.good?.state).toBe('Failed');
  });
});

describe('what is rendered', () => {
  const templates = (model: ClusterModel) =>
    [...model.objects.values()].flatMap(({ spec }) => {
      const { template } = (spec ?? {}) as {
        template?: { spec: Record<string, unknown>; metadata: { labels: Record<string, string> } };
      };
      return template === undefined ? [] : [template];
    });

  it('passes Restricted Pod Security, with no token for the API server', () => {
    const model = running(TWO_SITES.replace('redis: { mode: None }', 'redis: { mode: Managed }'));
    expect(templates(model)).toHaveLength(5);
    for (const { spec } of templates(model)) {
      expect(spec).toMatchObject({
        automountServiceAccountToken: false,
        securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
      });
      for (const container of spec.containers as readonly object[])
        expect(container).toMatchObject({
          securityContext: {
            allowPrivilegeEscalation: false,
            readOnlyRootFilesystem: true,
            capabilities: { drop: ['ALL'] },
          },
        });
      for (const { projected } of spec.volumes as readonly { projected?: { sources: readonly object[] } }[])
        if (projected !== undefined)
          expect(projected.sources).toMatchObject([{ serviceAccountToken: { audience: 'mailcluster.dev/signer' } }]);
    }
  });

  it('puts the pods of a site on its nodes, one budget for each', () => {
    const model = running();
    const budgets = [...model.objects.values()].filter(({ kind }) => kind === 'PodDisruptionBudget');
    for (const { metadata, spec } of templates(model)) {
      const zone = metadata.labels[LABEL.site] === 'seattle' ? 'a' : 'b';
      expect(JSON.stringify(spec.affinity)).toContain(`{"key":"zone","operator":"In","values":["${zone}"]}`);
      const selects = budgets.filter((one) =>
        covers((one.spec as { selector: { matchLabels: object } }).selector.matchLabels, metadata.labels),
      );
      expect(selects).toHaveLength(1);
    }
  });

  it('no name of an object, pod, claim or label is too long, whatever dag and site are called', () => {
    const long = 'x'.repeat(63);
    const text = `
  sites: [{ name: ${long} }, { name: ${'y'.repeat(63)} }]
  dags: [{ name: ${long}, members: [{ site: ${long}, replicas: 2 }, { site: ${'y'.repeat(63)}, replicas: 2 }] }]
`;
    const model = running(text, {});
    expect(model.memberNames).toHaveLength(4);
    for (const { metadata } of [...model.objects.values(), ...model.pods.values()]) {
      expect(metadata.name.length).toBeLessThanOrEqual(63);
      for (const value of Object.values(metadata.labels ?? {})) expect(value.length).toBeLessThanOrEqual(63);
    }
  });

  it('autoscaling: the autoscaler has the number, the Deployment does not', () => {
    const model = running(`${TWO_SITES}  frontend: { autoscaling: { min: 2, max: 7 } }\n`);
    const scalers = [...model.objects.values()].filter(({ kind }) => kind === 'HorizontalPodAutoscaler');
    expect(scalers.map(({ spec }) => (spec as { maxReplicas: number }).maxReplicas)).toEqual([4, 3]);
    const [first] = scalers;
    const sent = plan({ ...model.gather(), owned: [] }).actions.flatMap((one) =>
      one.kind === 'apply' && one.object.kind === 'Deployment' ? [one.object.spec] : [],
    );
    expect(first).toBeDefined();
    for (const spec of sent) expect(spec).not.toHaveProperty('replicas');
  });

  it('an unschedulable pod says so in its own words', () => {
    const model = running();
    const member = memberOf(model, 'seattle', 1);
    const pod = model.pods.get(member);
    if (pod === undefined) throw new Error('no pod');
    const conditions = [
      { type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message: '0/3 nodes are available' },
    ];
    model.pods.set(member, { ...pod, status: { phase: 'Pending', conditions } });
    model.carryOut(plan(model.gather()));
    expect(progressing(model)).toMatchObject({ status: 'False', reason: 'Unschedulable' });
    expect(progressing(model)?.message).toContain('0/3 nodes are available');
    expect(inSite(model, 'seattle')).toHaveLength(2);
  });
});
