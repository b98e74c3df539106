/**
 * The parsers of send connectors and keys of DKIM and ARC in the topology document (`config.ts`). Owns: what must hold inside one connector. Promise: as `config-parse.ts`; documents of
 * programs before a setting read as if it had not been used. PURE.
 */
import type {
  ArcConfig,
  ConnectorLimits,
  ConnectorSession,
  DkimConfig,
  DkimKeyConfig,
  MxConfig,
  SendConnectorConfig,
} from './config.ts';
import {
  count,
  endpoint,
  flag,
  list,
  lowerCase,
  Mismatch,
  milliseconds,
  network,
  nullable,
  object,
  oneOf,
  optional,
  type Parse,
  port,
  positive,
  text,
  withDefaults,
} from './config-grammar.ts';

const mxFields = object<MxConfig>({
  mtaSts: flag,
  dane: optional(flag),
  port,
  dnsServers: list(text),
  allowNetworks: list(network),
  ownNames: list(lowerCase),
});

const mx = withDefaults(mxFields, { mtaSts: false, dane: undefined });

const session = object<ConnectorSession>({
  isUnproven: flag,
  credentials: nullable(text),
  sourceAddress: nullable(text),
});

const limits = object<ConnectorLimits>({
  maxMessageBytes: nullable(positive),
  maxConcurrentDeliveries: nullable(positive),
  messagesPerMinute: nullable(positive),
});

const sendConnectorFields = object<SendConnectorConfig>({
  name: text,
  addressSpaces: list(object<SendConnectorConfig['addressSpaces'][number]>({ domain: lowerCase, cost: count }), 1),
  smartHosts: list(endpoint),
  mx: nullable(mx),
  tls: oneOf('None', 'Opportunistic', 'Required'),
  sites: list(text),
  session: nullable(session),
  sendLimits: nullable(limits),
});

export const sendConnector: Parse<SendConnectorConfig> = (value, path) => {
  const found = withDefaults(sendConnectorFields, { mx: null, session: null, sendLimits: null })(value, path);
  if (found.mx !== null && found.smartHosts.length > 0)
    throw new Mismatch(`${path}.mx`, 'is set beside smartHosts; a connector has one or the other');
  if (found.session?.credentials && found.tls !== 'Required')
    throw new Mismatch(`${path}.session.credentials`, `need tls Required, found ${found.tls}`);
  return found;
};

export const arc = object<ArcConfig>({
  ...{ failurePolicy: oneOf('Defer', 'SendUnsealed'), domain: lowerCase, selector: text, secret: text, key: text },
});

export const dkim = object<DkimConfig>({
  failurePolicy: oneOf('Defer', 'SendUnsigned'),
  keys: list(
    object<DkimKeyConfig>({ domain: lowerCase, selector: text, secret: text, key: text, signsFromMs: milliseconds }),
  ),
  relayFrom: list(object<DkimConfig['relayFrom'][number]>({ listener: text, networks: list(network) })),
});
