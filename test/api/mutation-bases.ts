/** Valid specs that use as many fields as go together: what `resource-mutations.test.ts` breaks. Data only. */
import type { Kind } from '../../operator/resource/schema.ts';

export interface Base {
  readonly kind: Kind;
  readonly name: string;
  readonly spec: unknown;
}

export const BASES: readonly Base[] = [
  {
    kind: 'MailCluster',
    name: 'with everything',
    spec: {
      sites: [
        { name: 'seattle', nodeLabels: { 'topology.kubernetes.io/zone': 'west-1' } },
        { name: 'portland', nodeLabels: { 'topology.kubernetes.io/zone': 'west-2' } },
        { name: 'denver', hubSite: true },
      ],
      siteLinks: [
        { name: 'sea-pdx', sites: ['seattle', 'portland'], cost: 10 },
        { name: 'pdx-den', sites: ['portland', 'denver'], cost: 50, maxMessageSize: '25Mi' },
      ],
      dags: [
        {
          name: 'dag1',
          members: [
            { site: 'seattle', replicas: 2 },
            { site: 'portland', replicas: 2 },
          ],
        },
      ],
      standalone: [{ site: 'denver', replicas: 2 }],
      frontend: {
        replicas: 3,
        listeners: [
          {
            name: 'smtp',
            port: 25,
            tls: 'StartTls',
            relayFrom: ['10.1.0.0/16'],
            contentFilter: { address: 'filter.mail.svc:8891', timeout: '10s', failurePolicy: 'Accept' },
            authenticationResults: {
              authservId: 'mx.contoso.com',
              checks: ['SPF', 'DKIM', 'ARC'],
              timeout: '10s',
              dnsServers: ['192.0.2.53', '[2001:db8::53]:5353'],
            },
          },
          { name: 'submission', port: 587, tls: 'StartTlsRequired', auth: { secretRef: { name: 'relay-users' } } },
        ],
      },
      acceptedDomains: [{ name: 'contoso.com' }, { name: 'partner.example', type: 'ExternalRelay' }],
      sendConnectors: [
        {
          name: 'internet',
          addressSpaces: [{ domain: '*' }],
          delivery: 'SmartHost',
          smartHosts: [{ host: 'relay.example.net', port: 25 }],
          sites: ['denver'],
        },
        {
          name: 'proven',
          addressSpaces: [{ domain: 'proven.example', cost: 2 }],
          delivery: 'MX',
          mx: { dnsServers: ['192.0.2.53'], mtaSts: 'Enforce', dane: 'Enforce' },
        },
      ],
      dkim: {
        failurePolicy: 'SendUnsigned',
        keys: [
          { domain: 'contoso.com', selector: 's1', secretRef: { name: 'dkim', key: 's1.key' } },
          {
            domain: 'contoso.com',
            selector: 's2',
            secretRef: { name: 'dkim', key: 's2.key' },
            signsFrom: '2026-01-01T00:00:00Z',
          },
        ],
      },
      arc: {
        ...{ domain: 'contoso.com', selector: 'arc1', failurePolicy: 'SendUnsealed' },
        secretRef: { name: 'dkim', key: 'arc1.key' },
      },
      messageTracking: { maxAge: '2160h', maxSize: '4Gi' },
      redis: { mode: 'None' },
    },
  },
  {
    kind: 'MailboxDatabase',
    name: 'of a dag',
    spec: {
      clusterRef: { name: 'contoso' },
      dag: 'dag1',
      recipients: { domains: ['contoso.com'] },
      copies: [
        { name: 'sea', site: 'seattle', lmtp: 'dovecot-sea.mail.svc:24' },
        { name: 'pdx', site: 'portland', lmtp: 'dovecot-pdx.mail.svc:24', replayLag: '0s' },
      ],
      activeCopy: 'sea',
      failover: { mode: 'Manual', lossWindow: '15m' },
    },
  },
  {
    kind: 'ResubmitRequest',
    name: 'by sender',
    spec: {
      clusterRef: { name: 'contoso' },
      selector: { sender: 'alice@contoso.com' },
      window: { from: '2026-01-01T00:00:00Z', to: '2026-01-02T00:00:00Z' },
    },
  },
  {
    kind: 'TransportOrder',
    name: 'about a queue',
    spec: { clusterRef: { name: 'contoso' }, by: 'alice', queue: { name: 'mailbox:db01/sea', action: 'Suspend' } },
  },
  {
    kind: 'TransportOrder',
    name: 'about a message',
    spec: {
      clusterRef: { name: 'contoso' },
      by: 'alice',
      message: { id: '01JABCDEFGHJKMNPQRSTVWXYZ0', action: 'RemoveWithNdr' },
    },
  },
  {
    kind: 'TransportOrder',
    name: 'about where a message is',
    spec: {
      clusterRef: { name: 'contoso' },
      by: 'alice',
      message: {
        ...{ id: '01JABCDEFGHJKMNPQRSTVWXYZ0', action: 'Redirect' },
        ...{ from: 'contoso-dag1-seattle-4d5e6f-0', to: 'contoso-dag1-seattle-4d5e6f-1' },
      },
    },
  },
];
