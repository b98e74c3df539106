/**
 * What a pod reads at start and on change: the topology document (one per MailCluster, same for every pod) and its own server
 * configuration. Written by `operator/topology.ts` (operator and `mailcluster run` alike), parsed here, nowhere else.
 * Refuses: anything that does not match; the error names the path. All durations are milliseconds, all sizes bytes.
 */
import type { Check } from './authentication-results.ts';
import type { CopyId, Identity } from './message.ts';
import type { SiteLink } from './site-paths.ts';

export interface MemberConfig {
  /** Name of the pod or process; the SAN of its certificate. */
  readonly name: string;
  readonly dag: string | null;
  readonly site: string;
  /** `dag/NAME` or `site/NAME`. */
  readonly boundary: string;
  readonly address: { readonly host: string; readonly port: number };
  readonly state: 'active' | 'cordoned' | 'draining' | 'gone';
}

export interface MailboxDatabaseConfig {
  readonly name: string;
  readonly boundary: string;
  /** Lower-case domains and addresses; an address beats a domain. */
  readonly domains: readonly string[];
  readonly addresses: readonly string[];
  /** How local parts compare; default case-insensitive (architecture.md section 8). */
  readonly caseSensitiveLocalParts: boolean;
  readonly copies: readonly {
    readonly name: string;
    readonly site: string;
    /** LMTP endpoint of this copy. */
    readonly lmtp: { readonly host: string; readonly port: number };
    readonly replayLagMs: number;
  }[];
  readonly activeCopy: string;
  /** Raised by every change of the active copy (protocol.md section 1). */
  readonly activation: number;
  readonly lossWindowMs: number;
  /** The store is told by what it knows a client's own retry (protocol.md 24). */
  readonly hidesClientRetries: boolean;
}

/** How domains find their hosts (RFC 5321 5.1). */
export interface MxConfig {
  readonly port: number;
  /** ADDRESS or ADDRESS:PORT; empty: those of the machine. */
  readonly dnsServers: readonly string[];
  /** Networks (CIDR) mail may go to although they are private or loopback. */
  readonly allowNetworks: readonly string[];
  /** Names in MX records that mean this cluster, lower case. */
  readonly ownNames: readonly string[];
  /** Policies of receiving domains are asked for and kept to (RFC 8461). Absent: not. */
  readonly mtaSts?: boolean;
  /** `dnsServers` validate DNSSEC, and TLSA records of the hosts count (RFC 7672). Absent: not. */
  readonly dane?: boolean;
}

/** What is said to the hosts of a connector, and from where. */
export interface ConnectorSession {
  /** With `tls: Required`: encrypted, but the certificate proves nothing to us. A program that does not know this field asks for proof. */
  readonly isUnproven: boolean;
  /** Name of the Secret with `username` and `password`; only with `tls: Required`. */
  readonly credentials: string | null;
  /** Local address of connections. */
  readonly sourceAddress: string | null;
}

/** What one transport sends through a connector; null: no limit of its own. */
export interface ConnectorLimits {
  /** Larger messages do not go this way. */
  readonly maxMessageBytes: number | null;
  /** At once to one destination (next hop). */
  readonly maxConcurrentDeliveries: number | null;
  /** To one destination. */
  readonly messagesPerMinute: number | null;
}

export interface SendConnectorConfig {
  readonly name: string;
  /** Lower-case domains, `*.example.org`, or `*`. */
  readonly addressSpaces: readonly { readonly domain: string; readonly cost: number }[];
  /** In order of preference; empty when `mx` is set. */
  readonly smartHosts: readonly { readonly host: string; readonly port: number }[];
  /** Set: the hosts of each domain are asked of DNS. */
  readonly mx: MxConfig | null;
  readonly tls: 'None' | 'Opportunistic' | 'Required';
  /** Sites whose transports send through it; empty: all. */
  readonly sites: readonly string[];
  readonly session?: ConnectorSession | null;
  readonly sendLimits?: ConnectorLimits | null;
}

/** A key of DKIM: TXT record at `selector._domainkey.domain`, private key under `key` in the Secret. */
export interface DkimKeyConfig {
  readonly domain: string;
  readonly selector: string;
  readonly secret: string;
  readonly key: string;
  /** Wall clock from which on it signs for its domain, until another begins. */
  readonly signsFromMs: number;
}

export interface DkimConfig {
  /** What becomes of a message whose key cannot be used. */
  readonly failurePolicy: 'Defer' | 'SendUnsigned';
  readonly keys: readonly DkimKeyConfig[];
  /** Whose clients may relay: their mail is ours. */
  readonly relayFrom: readonly { readonly listener: string; readonly networks: readonly string[] }[];
}

/** Whose seal a set of ARC has (RFC 8617): TXT record at `selector._domainkey.domain`, private key under `key` in the Secret. */
export interface ArcConfig {
  /** What becomes of a message when the key cannot be used. */
  readonly failurePolicy: 'Defer' | 'SendUnsealed';
  readonly domain: string;
  readonly selector: string;
  readonly secret: string;
  readonly key: string;
}

/** An address that stands for others: an alias, a group, or with `envelopeSender` a mailing list (RFC 5321 3.9). */
export interface ExpansionConfig {
  /** Compared without case, like all addresses here. */
  readonly address: string;
  readonly members: readonly string[];
  /** Name of an address list whose addresses are members too. */
  readonly membersFrom: string | null;
  /** Who hears of what cannot be delivered to a member; null: whoever sent the message. */
  readonly envelopeSender: string | null;
}

/** What front ends make of the recipients a client names, before a transport sees them. */
export interface RecipientsConfig {
  /** `alice+anything` is in the mailbox of `alice`. */
  readonly plusAddressing: boolean;
  readonly expansions: readonly ExpansionConfig[];
  /** Who gets what is for nobody. */
  readonly catchAll: readonly { readonly domain: string; readonly target: string }[];
  /** Domains of which only the addresses in these lists exist. */
  readonly knownRecipients: readonly { readonly domain: string; readonly addressLists: readonly string[] }[];
}

export interface PoliciesConfig {
  readonly shadowRedundancy: {
    readonly enabled: boolean;
    readonly preference: 'PreferRemote' | 'RemoteOnly' | 'LocalOnly';
    readonly maxRetriesForRemoteSiteShadow: number;
    readonly maxRetriesForLocalSiteShadow: number;
    readonly rejectMessageOnShadowFailure: boolean;
    readonly heartbeatFrequencyMs: number;
    readonly resubmitTimeSpanMs: number;
    readonly messageAutoDiscardIntervalMs: number;
  };
  readonly safetyNet: {
    readonly holdTimeMs: number;
    readonly unresponsivePrimaryTimeoutMs: number;
    /** Most bytes the Safety Nets of one transport may hold; beyond it the oldest go first. Null: only the disk bounds it. */
    readonly quotaBytes: number | null;
  };
  readonly queues: {
    readonly messageExpirationMs: number;
    readonly delayNotificationMs: number;
    /** Waits between attempts to a relay, in order; the last repeats (Exchange: TransientFailureRetry...). */
    readonly retryIntervalsMs: readonly number[];
    readonly mailboxRetryIntervalMs: number;
    readonly maxConcurrentDeliveriesPerDestination: number;
  };
  readonly limits: {
    readonly maxMessageBytes: number;
    readonly maxHeaderBytes: number;
    readonly maxRecipients: number;
    readonly maxReceivedHops: number;
  };
}

/** A queue database that will not come back, by the word of the orchestrator (protocol.md 4, 16). */
export interface RetiredIdentity {
  readonly member: string;
  readonly identity: Identity;
  /** Of the process that last used it, where the orchestrator knows it. */
  readonly uid: string | null;
  /** `lost`: pod or volume are gone for good, its shadows take over. `drained`: it proved empty before it went. */
  readonly reason: 'lost' | 'drained';
}

/** A durable predicate over what was delivered (protocol.md 19-22): resubmit from Safety Net. Exactly one of the four selectors is set. */
export interface ResubmitRequestConfig {
  readonly name: string;
  /** Boundary whose transports are asked; null: all. */
  readonly boundary: string | null;
  readonly database: string | null;
  readonly sender: string | null;
  readonly recipient: string | null;
  readonly messageId: string | null;
  /** Window over the time of delivery, ms since the epoch, ends included; `toMs` null: no upper bound. */
  readonly fromMs: number;
  readonly toMs: number | null;
  /** Failover: what was delivered under this activation of `database` or an earlier one is lost. Null: requested by a person. */
  readonly lostActivation: number | null;
  readonly createdAtMs: number;
  readonly expiresAtMs: number;
  readonly dryRun: boolean;
  readonly cancelled: boolean;
}

/** What each transport keeps of message tracking; the oldest goes first. */
export interface MessageTrackingConfig {
  readonly maxAgeMs: number;
  /** Null: as `transport/runtime/tracking-retention.ts` has it. */
  readonly maxBytes: number | null;
}

export interface TopologyDocument {
  readonly cluster: string;
  readonly generation: number;
  readonly sites: readonly { readonly name: string; readonly hubSite: boolean }[];
  /** What mail between boundaries may go over (`site-paths.ts`). Absent: no link is declared. */
  readonly siteLinks?: readonly SiteLink[];
  readonly members: readonly MemberConfig[];
  readonly frontends: readonly { readonly name: string; readonly site: string }[];
  readonly policies: PoliciesConfig;
  readonly acceptedDomains: readonly {
    readonly name: string;
    readonly type: 'Authoritative' | 'ExternalRelay' | 'InternalRelay';
  }[];
  readonly databases: readonly MailboxDatabaseConfig[];
  readonly sendConnectors: readonly SendConnectorConfig[];
  readonly retired: readonly RetiredIdentity[];
  readonly resubmitRequests: readonly ResubmitRequestConfig[];
  /** What people decided about single messages; each is done once, by whoever owns the message. Absent: nothing. */
  readonly messageOrders?: readonly MessageOrder[];
  /** What people decided about delivery queues, the last word about each; absent: nothing. */
  readonly queueOrders?: readonly QueueOrder[];
  /** Absent: addresses are what they are. */
  readonly recipients?: RecipientsConfig;
  /** Absent: nothing is signed. */
  readonly dkim?: DkimConfig;
  /** Absent: nothing is sealed. */
  readonly arc?: ArcConfig;
  /** Absent: 128 MiB, whatever their age. */
  readonly messageTracking?: MessageTrackingConfig;
}

export interface MessageOrder {
  readonly id: string;
  readonly message: CopyId;
  readonly action: 'suspend' | 'resume' | 'remove' | 'removeWithNdr' | 'redirect';
  /** Of `redirect`, both: the member that owned it when it was ordered, and the one that shall. Who else comes to own it meanwhile keeps it. */
  readonly from?: string;
  readonly to?: string;
  /** For the audit. */
  readonly by: string;
}

export interface QueueOrder {
  readonly id: string;
  /** Next hop, as every transport names it. */
  readonly queue: string;
  /** `suspend` holds for as long as it stands here; `retry` is done once. */
  readonly action: 'suspend' | 'resume' | 'retry';
  readonly by: string;
}

/** Files of the private identity of a pod, PEM. Re-read on change without a restart. */
export interface TlsFiles {
  readonly caFile: string;
  readonly certificateFile: string;
  readonly keyFile: string;
}

/** Where a pod has its certificate signed (`platform/pod-certificate.ts`); the key and certificate files of `TlsFiles` are then its own. */
export interface SignerConfig {
  /** https://HOST:PORT/v1/namespaces/NAMESPACE/clusters/NAME/certificates */
  readonly url: string;
  /** The name in the endpoint's certificate, signed by the authority in `TlsFiles.caFile`. */
  readonly serverName: string;
  /** A projected ServiceAccount token, re-read each time. */
  readonly tokenFile: string;
}

export interface TransportConfig {
  readonly name: string;
  /** Where the topology document is; re-read when it changes. */
  readonly topologyFile: string;
  readonly queueDatabaseDirectory: string;
  readonly tls: TlsFiles;
  /** Null: the files of `tls` are provided by somebody else. */
  readonly signer: SignerConfig | null;
  readonly listen: { readonly host: string; readonly port: number };
  readonly admin: { readonly host: string; readonly port: number };
  readonly metrics: { readonly host: string; readonly port: number };
  /** Host name in `Received:` and in EHLO/LHLO. */
  readonly hostname: string;
  readonly store: { readonly segmentBytes: number; readonly reserveBytes: number };
  /** The shared ledger of what went out to external recipients (protocol.md 23), or null: each transport remembers for itself. */
  readonly ledger: LedgerConfig | null;
  /** Holds a directory for each Secret that a connector names, with files `username` and `password`. Absent: no connector names one. */
  readonly credentialsDirectory?: string | null;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
}

/** A Redis server. Losing it costs at most a repeated offer. */
export interface LedgerConfig {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
  readonly username: string | null;
  readonly passwordFile: string | null;
}

export interface ListenerConfig {
  readonly name: string;
  readonly host: string;
  /** 0 = any free port; the chosen one is reported in the ready message. */
  readonly port: number;
  readonly tls: 'None' | 'StartTls' | 'StartTlsRequired' | 'Implicit';
  /** Networks (CIDR) whose clients may relay to foreign domains. */
  readonly relayFrom: readonly string[];
  /** File of a users Secret (`user: password-hash` per line), or null when AUTH is not offered. */
  readonly usersFile: string | null;
  /** True: mail only from clients that have authenticated or are in `relayFrom` (RFC 6409 section 4.3). Absent: from everybody. */
  readonly authRequired?: boolean;
  /** What is found out about mail of everybody else; absent: nothing. */
  readonly authenticationResults?: AuthenticationResultsConfig;
  /** Who is asked about every message; absent: nobody. */
  readonly contentFilter?: ContentFilterConfig;
}

/** A mail filter that speaks the milter protocol. */
export interface ContentFilterConfig {
  readonly host: string;
  readonly port: number;
  /** How long one answer is waited for. */
  readonly timeoutMs: number;
  readonly failurePolicy: 'Defer' | 'Accept';
}

/** RFC 8601. */
export interface AuthenticationResultsConfig {
  /** Whose words the results are; one for all front ends of a cluster. */
  readonly authservId: string;
  readonly checks: readonly Check[];
  /** How long a message waits for its results after its end. */
  readonly timeoutMs: number;
  /** Like `192.0.2.53` or `[2001:db8::53]:5353`; empty: those of the machine. */
  readonly dnsServers: readonly string[];
}

export interface AddressListFile {
  readonly name: string;
  /** One address a line. */
  readonly file: string;
}

export interface FrontendConfig {
  readonly name: string;
  readonly site: string;
  readonly topologyFile: string;
  /** Identity for the inner hops. */
  readonly tls: TlsFiles;
  /** Null: the files of `tls` are provided by somebody else. */
  readonly signer: SignerConfig | null;
  /** Certificate shown to SMTP clients, or null: STARTTLS is then offered with the pod's own certificate. */
  readonly smtpTls: { readonly certificateFile: string; readonly keyFile: string } | null;
  readonly listeners: readonly ListenerConfig[];
  /** Load balancers (CIDR) whose PROXY headers name the client; they must send one. */
  readonly proxyFrom: readonly string[];
  readonly metrics: { readonly host: string; readonly port: number };
  readonly hostname: string;
  /** Files of the address lists that the topology document names. Absent: none. */
  readonly addressLists?: readonly AddressListFile[];
  readonly limits: FrontendLimits;
  /** Where the front ends share their counts, or null: each counts for itself. */
  readonly sharedLimits: LedgerConfig | null;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
}

/** semantics.md section 9; every limit has a name, a default, a reply and a metric. */
export interface FrontendLimits {
  readonly maxMessageBytes: number;
  readonly maxHeaderBytes: number;
  readonly maxRecipients: number;
  readonly maxCommandLineBytes: number;
  readonly maxDataLineBytes: number;
  readonly maxErrors: number;
  readonly maxJunkCommands: number;
  readonly idleTimeoutMs: number;
  readonly dataTimeoutMs: number;
  readonly minDataBytesPerSecond: number;
  readonly maxConnections: number;
  readonly maxConnectionsPerClient: number;
  /** New connections a minute of one client network; 0: as many as it likes. */
  readonly maxConnectionRatePerClient: number;
  /** Failed AUTH of one user from one client network within ten minutes; five times as many of the network in all. */
  readonly maxAuthFailures: number;
  /** Messages an hour of one authenticated user; 0: as many as he likes. */
  readonly maxMessageRatePerUser: number;
  /** Replay buffer per session (semantics.md R9) and the cap over all sessions, bytes. */
  readonly replayBufferBytes: number;
  readonly totalReplayBufferBytes: number;
}
