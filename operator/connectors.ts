/** Send connectors of a MailCluster as the topology document has them. Owns: what a setting that is left out means. Promise: sorted by name. PURE. */
import type { ConnectorLimits, ConnectorSession, MxConfig, SendConnectorConfig } from '../common/config.ts';
import { privateKeys } from './dkim.ts';
import type { MailCluster } from './resource/generated.ts';
import { sizeBytes } from './resource/quantity.ts';

type Connector = MailCluster['spec']['sendConnectors'][number];

const MX_DEFAULTS = { port: 25, dnsServers: [], allowNetworks: [], ownNames: [] };

function mxOf({ delivery, mx, tls }: Connector): MxConfig | null {
  if (delivery !== 'MX') return null;
  const { mtaSts, dane, ...rest } = mx ?? {};
  const asked = { ...MX_DEFAULTS, ...rest, mtaSts: tls !== 'None' && mtaSts !== 'Ignore' };
  // Who does not use it keeps the document that he has.
  return dane === 'Enforce' ? { ...asked, dane: true } : asked;
}

function sessionOf({ tls, auth, sourceAddress: from }: Connector): ConnectorSession | null {
  const sourceAddress = from ?? null;
  const isUnproven = tls === 'EncryptionOnly';
  const credentials = auth?.secretRef.name ?? null;
  return isUnproven || credentials !== null || sourceAddress !== null
    ? { isUnproven, credentials, sourceAddress }
    : null;
}

function limitsOf(connector: Connector): ConnectorLimits | null {
  const { maxMessageSize, maxConcurrentDeliveries = null, maxMessagesPerMinute: messagesPerMinute = null } = connector;
  const maxMessageBytes = maxMessageSize === undefined ? null : sizeBytes(maxMessageSize);
  return maxMessageBytes !== null || maxConcurrentDeliveries !== null || messagesPerMinute !== null
    ? { maxMessageBytes, maxConcurrentDeliveries, messagesPerMinute }
    : null;
}

export function sendConnectors(cluster: MailCluster): readonly SendConnectorConfig[] {
  return cluster.spec.sendConnectors
    .map((connector): SendConnectorConfig => {
      const { name, addressSpaces, smartHosts, tls, sites } = connector;
      return {
        name,
        addressSpaces: addressSpaces.map(({ domain, cost }) => ({ domain, cost })),
        smartHosts: smartHosts.map(({ host, port }) => ({ host, port })),
        mx: mxOf(connector),
        tls: tls === 'EncryptionOnly' ? 'Required' : tls,
        sites: [...sites].sort(),
        session: sessionOf(connector),
        sendLimits: limitsOf(connector),
      };
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Secrets that transports need: one directory each. */
export const transportSecrets = (cluster: MailCluster): readonly string[] =>
  [...new Set([...connectorSecrets(cluster), ...privateKeys(cluster).map(({ secretRef }) => secretRef.name)])].sort();

/** Those with passwords for smart hosts. */
export const connectorSecrets = ({ spec }: MailCluster): readonly string[] =>
  [...new Set(spec.sendConnectors.flatMap(({ auth }) => auth?.secretRef.name ?? []))].sort();
