/**
 * Generated from crds/*.yaml by operator/resource/generate-types.ts; do not edit. Resources after validation and defaulting.
 */

export interface Metadata {
  readonly name: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

export interface MailCluster {
  readonly kind: 'MailCluster';
  readonly metadata: Metadata;
  readonly spec: MailClusterSpec;
}

export interface MailClusterSpec {
  /** Places whose failure must not lose mail; usually a topology zone each. */
  readonly sites: readonly {
    /** Name of the site. */
    readonly name: string;
    /** Labels of the nodes which are in this site. */
    readonly nodeLabels?: Readonly<Record<string, string>>;
    /** Relayed mail whose least-cost path crosses this site stops here (Exchange: HubSiteEnabled). */
    readonly hubSite: boolean;
  }[];
  /** Paths between sites and what they cost (Exchange: IP site links). */
  readonly siteLinks: readonly {
    /** Name of the link. */
    readonly name: string;
    /** The two sites it joins. */
    readonly sites: readonly string[];
    /** Cost of the link; the path with the lowest sum wins. */
    readonly cost: number;
    /** Larger messages take another path or are refused. */
    readonly maxMessageSize?: string;
  }[];
  /** Database availability groups: each is one transport high availability boundary over one or more sites. */
  readonly dags: readonly {
    /** Name of the DAG. */
    readonly name: string;
    /** Transports of the DAG by site. */
    readonly members: readonly {
      /** A site of spec.sites. */
      readonly site: string;
      /** Transports of this DAG in this site. */
      readonly replicas: number;
    }[];
  }[];
  /** Transports of no DAG: the boundary of each entry is its site. */
  readonly standalone: readonly {
    /** A site of spec.sites. */
    readonly site: string;
    /** Transports of this site. */
    readonly replicas: number;
  }[];
  /** Settings of every transport. */
  readonly transport: {
    /** The volume of a queue database. */
    readonly storage: {
      /** Size of the volume. */
      readonly size: string;
      /** Storage class; the default class of the cluster when absent. */
      readonly storageClassName?: string;
      /** What becomes of the volume of a removed member once it is empty. */
      readonly whenScaled: 'DeleteWhenEmpty' | 'Retain';
      /** What becomes of the volumes when the MailCluster is deleted. */
      readonly whenDeleted: 'Retain' | 'Delete';
    };
    /** Resources of the container. A pod without a CPU request hardly runs on a busy node: it starts in minutes, and others take it for lost. */
    readonly resources: {
      readonly requests: Readonly<Record<string, string | number>>;
      readonly limits?: Readonly<Record<string, string | number>>;
    };
    /** What a transport accepts from a front end or a peer. */
    readonly limits: {
      /** Largest message. */
      readonly maxMessageSize: string;
      /** Largest header section (552 5.3.4). */
      readonly maxHeaderSize: string;
      /** Recipients of one message (452 4.5.3). */
      readonly maxRecipients: number;
      /** Received fields before a message counts as looping (554 5.4.6). */
      readonly maxReceivedHops: number;
    };
  };
  /** The stateless SMTP servers in front of the transports. */
  readonly frontend: {
    /** Front ends in all, spread evenly over the sites; 2 when neither this nor autoscaling is set. */
    readonly replicas?: number;
    /** Let the load decide instead of replicas; counts are totals over the sites. */
    readonly autoscaling?: {
      /** Fewest front ends. */
      readonly min: number;
      /** Most front ends. */
      readonly max: number;
      /** Average CPU use to aim at, percent of the request. */
      readonly targetCPU: number;
    };
    /** Secret with tls.crt and tls.key shown to SMTP clients; the private certificate of the pod when absent. */
    readonly tlsSecretRef?: {
      readonly name: string;
    };
    /** Ports on which mail is accepted. */
    readonly listeners: readonly {
      /** Name of the listener; also the name of the port of the Service. */
      readonly name: string;
      /** TCP port of the Service; on one machine a free port is taken unless --listen says otherwise. */
      readonly port: number;
      /** None: never; StartTls: offered; StartTlsRequired: nothing before it; Implicit: from the first byte. */
      readonly tls: 'None' | 'StartTls' | 'StartTlsRequired' | 'Implicit';
      /** Networks whose clients may send to foreign domains; everybody else reaches accepted domains only. */
      readonly relayFrom: readonly string[];
      /** Offer AUTH; who passes may send to foreign domains. */
      readonly auth?: {
        /** Refuse mail from whoever has not authenticated and is not in relayFrom, mail for our own domains too (530 5.7.0; RFC 6409 section 4.3). When absent: true on ports 587 and 465, false on others. */
        readonly required?: boolean;
        /** Secret whose keys are user names; a value is a password, or its hash as `mailcluster password` makes it. */
        readonly secretRef: {
          readonly name: string;
        };
      };
      /** Look at SPF, DKIM, DMARC (and ARC) of mail from strangers (no AUTH, not in relayFrom) and write what was found into Authentication-Results (RFC 8601); nothing is refused for it. Fields that claim to be ours are taken out. Off when absent. */
      readonly authenticationResults?: {
        /** Whose words the results are; by it filters know them. When absent: the name of the SMTP Service with which every front end's greeting ends. */
        readonly authservId?: string;
        /** What is looked at. DMARC rests on SPF and DKIM; ARC is the chain of those who passed the message on (RFC 8617), which spec.arc goes on with. */
        readonly checks: readonly ('SPF' | 'DKIM' | 'DMARC' | 'ARC')[];
        /** How long a message may wait for its results, counted from its end; what is not known by then is temperror. */
        readonly timeout: string;
        /** Name servers to ask, 192.0.2.53 or 192.0.2.53:5353; those of the pod when empty. */
        readonly dnsServers: readonly string[];
      };
      /** Ask a mail filter that speaks the milter protocol of Sendmail (version 6; OpenDKIM, rspamd) about every message, of users and relayFrom too, before it is accepted. It may refuse, defer or accept, and add header fields; nothing else. Off when absent. */
      readonly contentFilter?: {
        /** Where the filter listens, HOST:PORT; every front end connects once for each message. */
        readonly address: string;
        /** How long one answer of the filter is waited for; progress that it reports begins it anew. After the end of a message never longer than 4m in all. */
        readonly timeout: string;
        /** What becomes of a message for which the filter does not answer, cannot be understood or wants what it may not. Defer: the client hears 451 and comes again. Accept: it goes on as if there were no filter. */
        readonly failurePolicy: 'Defer' | 'Accept';
      };
    }[];
    /** Load balancers that pass connections on: who connects from these networks must say by a PROXY header (version 1 or 2) whose connection it is; nobody else is believed. */
    readonly proxyProtocol?: {
      readonly trustedCIDRs: readonly string[];
    };
    /** The Service in front of the front ends. */
    readonly service: {
      readonly type: 'LoadBalancer' | 'NodePort' | 'ClusterIP';
      /** Local keeps the address of the client. */
      readonly externalTrafficPolicy: 'Local' | 'Cluster';
      readonly annotations?: Readonly<Record<string, string>>;
    };
    /** Resources of the container. A pod without a CPU request hardly runs on a busy node: it starts in minutes, and others take it for lost. */
    readonly resources: {
      readonly requests: Readonly<Record<string, string | number>>;
      readonly limits?: Readonly<Record<string, string | number>>;
    };
    /** What one front end lets a client do. */
    readonly limits: {
      /** Largest message, checked at MAIL SIZE= and while it arrives. */
      readonly maxMessageSize: string;
      /** Largest header section (552 5.3.4). */
      readonly maxHeaderSize: string;
      /** Recipients of one message (452 4.5.3); RFC 5321 4.5.3.1.8 asks for at least 100. */
      readonly maxRecipients: number;
      /** Longest command line; RFC 5321 4.5.3.1.4 asks for at least 512. */
      readonly maxCommandLineSize: string;
      /** Longest line of a message; RFC 5321 4.5.3.1.6 asks for at least 1000. */
      readonly maxDataLineSize: string;
      /** Errors of one session before 421. */
      readonly maxErrors: number;
      /** NOOP, RSET, VRFY without mail before 421. */
      readonly maxJunkCommands: number;
      /** Silence of a client before 421; 10 s at most while the front end has more than 80 % of maxConnections. */
      readonly idleTimeout: string;
      /** Longest time for one message body. */
      readonly dataTimeout: string;
      /** Slowest message body. */
      readonly minDataBytesPerSecond: number;
      /** Connections of one front end. */
      readonly maxConnections: number;
      /** Connections of one client address (IPv6: /64), over all front ends that share Redis. */
      readonly maxConnectionsPerClient: number;
      /** New connections per minute of one client address (IPv6: /64), over all front ends that share Redis; 0: no limit (Exchange: MessageRateLimit by IPAddress). */
      readonly maxConnectionRatePerClient: number;
      /** Failed AUTH of one user from one client address within ten minutes before the next is refused unseen; of all users from that address five times as many. */
      readonly maxAuthFailures: number;
      /** Messages per hour of one authenticated user, over all front ends that share Redis; 0: no limit (Exchange: MessageRateLimit by User). */
      readonly maxMessageRatePerUser: number;
      /** Body of one session kept for another transport. */
      readonly replayBufferSize: string;
      /** The same over all sessions. */
      readonly totalReplayBufferSize: string;
    };
  };
  /** How the second copy is made and kept (Exchange: Set-TransportConfig). */
  readonly shadowRedundancy: {
    /** Off: one copy only, and no Shadow Safety Net (Exchange: ShadowRedundancyEnabled). */
    readonly enabled: boolean;
    /** Where the shadow of a member of a DAG over several sites goes (Exchange: ShadowMessagePreferenceSetting). */
    readonly preference: 'PreferRemote' | 'RemoteOnly' | 'LocalOnly';
    /** Attempts on members of other sites (Exchange: MaxRetriesForRemoteSiteShadow). */
    readonly maxRetriesForRemoteSiteShadow: number;
    /** Attempts on members of the same site (Exchange: MaxRetriesForLocalSiteShadow). */
    readonly maxRetriesForLocalSiteShadow: number;
    /** True: 451 when no second copy can be made. False: accept, count as unprotected, protect later. */
    readonly rejectMessageOnShadowFailure: boolean;
    /** How often a shadow asks its primary (Exchange: ShadowHeartbeatFrequency, 2m). */
    readonly heartbeatFrequency: string;
    /** Silence of a primary before its shadows take over (Exchange: ShadowResubmitTimeSpan, 3h). */
    readonly resubmitTimeSpan: string;
    /** How long discard notices of a silent holder are shown as pending (Exchange: ShadowMessageAutoDiscardInterval). */
    readonly messageAutoDiscardInterval: string;
  };
  /** Copies kept after processing, for resubmission. */
  readonly safetyNet: {
    /** How long a processed message is kept (Exchange: SafetyNetHoldTime). */
    readonly holdTime: string;
    /** Wait for a primary before its part is resubmitted from Shadow Safety Net (Exchange: 12h). */
    readonly unresponsivePrimaryTimeout: string;
    /** Shadow Safety Net; follows shadowRedundancy.enabled and need not be written. */
    readonly shadow?: boolean;
    /** Most one transport keeps in its Safety Nets; beyond it the oldest go first. Without it only the disk bounds them. */
    readonly quota?: string;
  };
  /** Retry, delay notices and expiry. */
  readonly queues: {
    /** Age at which undelivered mail is returned (Exchange: MessageExpirationTimeout). */
    readonly messageExpiration: string;
    /** Age at which the sender is told of a delay (Exchange: DelayNotificationTimeout). */
    readonly delayNotification: string;
    /** Waits between attempts to a relay, in order; the last one repeats. */
    readonly retryIntervals: readonly string[];
    /** Wait between attempts to a mailbox database (Exchange: MailboxDeliveryQueueRetryInterval). */
    readonly mailboxRetryInterval: string;
    /** Connections of one transport to one destination (Exchange: MaxPerDomainOutboundConnections). */
    readonly maxConcurrentDeliveriesPerDestination: number;
  };
  /** How long each transport keeps what it records about messages, and how much, on the volume of its queue database; the oldest goes first. */
  readonly messageTracking: {
    /** What is older goes, within a tenth of it (Exchange: MessageTrackingLogMaxAge). */
    readonly maxAge: string;
    /** Most one transport keeps (Exchange: MessageTrackingLogMaxDirectorySize). When absent 1Gi, and at most a tenth of the volume as the disk reports it. While the volume has less than 768Mi left, the oldest goes whatever this says. */
    readonly maxSize?: string;
  };
  /** Domains for which anybody may send mail here. */
  readonly acceptedDomains: readonly {
    /** Domain in lower case; an internationalised one as its A-label. */
    readonly name: string;
    /** Authoritative: unknown recipients are refused; InternalRelay: unknown ones are relayed; ExternalRelay: all are relayed. */
    readonly type: 'Authoritative' | 'InternalRelay' | 'ExternalRelay';
  }[];
  /** Addresses that stand for others, and which addresses exist. Resolved once, by the front end; addresses compare without case. */
  readonly recipients?: {
    /** Mail for alice+anything is for alice; the address goes on to the mailbox as it was written. */
    readonly plusAddressing: boolean;
    /** Addresses that stand for one other, here or elsewhere; the envelope sender stays. */
    readonly aliases: readonly {
      /** The alias, in an accepted domain. */
      readonly address: string;
      /** Who gets its mail; may be an alias or a group. */
      readonly target: string;
    }[];
    /** Addresses that stand for many; with envelopeSender a mailing list. */
    readonly groups: readonly {
      /** The group, in an accepted domain. */
      readonly address: string;
      /** Members, here or elsewhere; aliases and groups among them are expanded too. */
      readonly members: readonly string[];
      /** An address list whose addresses are members as well; 10,000 in all. */
      readonly membersFrom?: string;
      /** Owner of the mailing list: hears of what cannot be delivered to a member, in place of the sender (RFC 5321 3.9.2). */
      readonly envelopeSender?: string;
    }[];
    /** Who gets the mail for addresses that do not exist. */
    readonly catchAll: readonly {
      /** An accepted domain of which it is known who exists: Authoritative, or with knownRecipients. */
      readonly domain: string;
      /** Who gets it; may be an alias or a group. */
      readonly target: string;
    }[];
    /** Addresses in a ConfigMap or a file, one a line, up to 500,000 and 32 MiB each; read again when they change. */
    readonly addressLists: readonly {
      /** Name of the list. */
      readonly name: string;
      /** A ConfigMap of this namespace. */
      readonly configMapRef?: {
        readonly name: string;
        readonly key: string;
      };
      /** Absolute path of a file where the front ends run; for mailcluster run. */
      readonly file?: string;
    }[];
    /** Domains of which only the addresses in these lists exist, besides aliases, groups, postmaster and addresses that a MailboxDatabase names; others are refused (550 5.1.1). */
    readonly knownRecipients: readonly {
      /** An accepted domain. */
      readonly domain: string;
      /** Names of address lists. */
      readonly addressLists: readonly string[];
    }[];
  };
  /** Ways out for mail to other domains. */
  readonly sendConnectors: readonly {
    /** Name of the connector. */
    readonly name: string;
    /** Domains it serves; the most exact match wins, then the lowest cost. */
    readonly addressSpaces: readonly {
      /** A domain, *.domain for it and all below it, or * for every other. */
      readonly domain: string;
      /** Connectors with the same match: the lowest cost wins. Two of the same cost for one domain in one site are refused. */
      readonly cost: number;
    }[];
    /** SmartHost: hand everything to the hosts below. MX: ask DNS. */
    readonly delivery: 'SmartHost' | 'MX';
    /** Hosts in order of preference. */
    readonly smartHosts: readonly {
      /** Name or address. */
      readonly host: string;
      /** TCP port. */
      readonly port: number;
    }[];
    /** How MX delivery finds hosts; only with delivery: MX. */
    readonly mx?: {
      /** TCP port of the MX hosts. */
      readonly port: number;
      /** Name servers to ask, 192.0.2.53 or 192.0.2.53:5353; those of the pod when empty. */
      readonly dnsServers: readonly string[];
      /** Private or loopback networks mail may go to when DNS says so; by default it may go to none of them. */
      readonly allowNetworks: readonly string[];
      /** Host names in MX records that mean this cluster: mail is never sent to them, nor to hosts that are less preferred (RFC 5321 5.1). */
      readonly ownNames: readonly string[];
      /** Enforce: keep to the MTA-STS policies of receiving domains (RFC 8461), fetched from them over HTTPS. Enforce when absent, except with tls: None. */
      readonly mtaSts?: 'Enforce' | 'Ignore';
      /** Enforce: hosts with TLSA records must prove them (DANE, RFC 7672), and dnsServers are resolvers that validate DNSSEC, over a way that nobody else can write to: what they call authentic is believed. Ignore when absent. */
      readonly dane?: 'Enforce' | 'Ignore';
    };
    /** None: never; Opportunistic: when offered; EncryptionOnly: always, whatever the certificate; Required: with a certificate that proves the name, or not at all. */
    readonly tls: 'None' | 'Opportunistic' | 'EncryptionOnly' | 'Required';
    /** How we authenticate to the smart hosts: AUTH PLAIN or LOGIN, over TLS only. */
    readonly auth?: {
      /** Secret with the keys username and password, as of type kubernetes.io/basic-auth; re-read for each connection. */
      readonly secretRef: {
        readonly name: string;
      };
    };
    /** Local address of connections; every transport in the scope of the connector must have it. The system's choice when absent. */
    readonly sourceAddress?: string;
    /** Larger messages do not go through it: another connector takes them, or their senders get a report (5.3.4). */
    readonly maxMessageSize?: string;
    /** Messages that one transport sends at the same time to one destination (the smart hosts, or each domain by MX); queues.maxConcurrentDeliveriesPerDestination when absent. */
    readonly maxConcurrentDeliveries?: number;
    /** Messages that one transport sends to one destination in a minute, evenly; no limit when absent. */
    readonly maxMessagesPerMinute?: number;
    /** Sites whose transports send through it; all when empty. */
    readonly sites: readonly string[];
  }[];
  /** Signatures (RFC 6376) of mail that leaves through send connectors, where its client may relay or has authenticated, or it was made here; nothing is signed when absent. */
  readonly dkim?: {
    /** What becomes of a message whose key cannot be used. Defer: it waits, and its error says why. SendUnsigned: it goes without. */
    readonly failurePolicy: 'Defer' | 'SendUnsigned';
    /** Keys by the domain of the author (From:). Of several for one domain that one signs whose signsFrom is the latest not in the future. */
    readonly keys: readonly {
      /** Domain of the authors whose mail it signs, without those below it; d= of the signature. */
      readonly domain: string;
      /** Its public key is the TXT record at SELECTOR._domainkey.DOMAIN. */
      readonly selector: string;
      /** Secret and key with the private key in PEM, RSA of 1024 bits or more or Ed25519; re-read for each message. */
      readonly secretRef: {
        readonly name: string;
        readonly key: string;
      };
      /** It signs from then on (RFC 3339) in place of the one before it; at once when absent. Publish the TXT record before. */
      readonly signsFrom?: string;
    }[];
  };
  /** Sets of ARC (RFC 8617) in front of strangers' mail that leaves through send connectors, where a listener found out what its chain is (authenticationResults.checks with ARC): what was found out is sealed for the next. Nothing is sealed when absent. */
  readonly arc?: {
    /** Who vouches for what was found out; d= of the seals. */
    readonly domain: string;
    /** The public key is the TXT record at SELECTOR._domainkey.DOMAIN, as one of DKIM. */
    readonly selector: string;
    /** Secret and key with the private key in PEM, RSA of 1024 bits or more (few who verify chains know Ed25519); re-read for each message. */
    readonly secretRef: {
      readonly name: string;
      readonly key: string;
    };
    /** What becomes of a message when the key cannot be used. Defer: it waits, and its error says why. SendUnsealed: it goes without. */
    readonly failurePolicy: 'Defer' | 'SendUnsealed';
  };
  /** Shared limits and the ledger of external deliveries; mail flows without it. */
  readonly redis: {
    /** Managed: the operator runs one (on one machine: as None). External: yours. None: every front end counts for itself. */
    readonly mode: 'Managed' | 'External' | 'None';
    /** Secret and key with a redis:// or rediss:// URL. */
    readonly urlSecretRef?: {
      readonly name: string;
      readonly key: string;
    };
  };
  /** Who signs the certificates between the pods; a private authority of the operator when absent. */
  readonly certificates?: {
    /** An issuer of cert-manager. */
    readonly issuerRef?: {
      readonly name: string;
      readonly kind: 'Issuer' | 'ClusterIssuer';
    };
  };
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
}

export interface MailClusterStatus {
  /** Generation of the spec that this status is about. */
  readonly observedGeneration?: number;
  /** Generation of the topology document. */
  readonly topologyGeneration?: number;
  /** Ready and wanted members, for example 4/4. */
  readonly membersReady?: string;
  /** Ready and wanted front ends, for example 2/2. */
  readonly frontendsReady?: string;
  readonly oldestMessageTime?: string;
  readonly counts?: {
    readonly queued?: number;
    readonly shadow?: number;
    readonly unprotected?: number;
    readonly poison?: number;
    readonly primarySafetyNet?: number;
    readonly shadowSafetyNet?: number;
  };
  readonly members?: readonly {
    readonly name: string;
    readonly boundary?: string;
    readonly site?: string;
    readonly state?: 'Pending' | 'Active' | 'Cordoned' | 'Draining' | 'Empty' | 'Lost';
    readonly generation?: number;
    readonly queued?: number;
    readonly shadow?: number;
    /** Absent while it is not known. */
    readonly unprotected?: number;
    readonly ready?: boolean;
    /** Of its queue database, as it last said itself. */
    readonly identity?: string;
    /** Of the pod that said so. */
    readonly podUid?: string;
    /** Of the claim that pod had. */
    readonly claimUid?: string;
    /** To which that claim was bound. */
    readonly volume?: string;
    /** It is being restarted, or is to be. */
    readonly restartReason?: string;
    /** What it waits for. */
    readonly message?: string;
  }[];
  readonly conditions?: readonly {
    readonly type: string;
    readonly status: 'True' | 'False' | 'Unknown';
    readonly observedGeneration?: number;
    readonly lastTransitionTime: string;
    readonly reason: string;
    readonly message: string;
  }[];
}

export interface MailboxDatabase {
  readonly kind: 'MailboxDatabase';
  readonly metadata: Metadata;
  readonly spec: MailboxDatabaseSpec;
}

export interface MailboxDatabaseSpec {
  /** The MailCluster of the same namespace which delivers to this database. */
  readonly clusterRef: {
    readonly name: string;
  };
  /** DAG whose members deliver to this database. */
  readonly dag?: string;
  /** Standalone site whose members deliver to this database. */
  readonly site?: string;
  /** Who lives here; an address beats a domain. */
  readonly recipients: {
    /** Every address of these domains. */
    readonly domains?: readonly string[];
    /** Single addresses. */
    readonly addresses?: readonly string[];
    /** Single addresses from a ConfigMap, one per line; for more than a resource can hold. */
    readonly addressesFrom?: {
      readonly configMapRef: {
        readonly name: string;
        readonly key: string;
      };
    };
    /** How the part before the @ compares; the envelope is never rewritten. */
    readonly localParts: 'CaseInsensitive' | 'CaseSensitive';
  };
  /** Copies of the database; mail goes to the active one. */
  readonly copies: readonly {
    /** Name of the copy. */
    readonly name: string;
    /** Site of the cluster in which this copy lives. */
    readonly site: string;
    /** HOST:PORT of an LMTP server; or maildir:PATH, a small store of its own which mailcluster run starts on one machine. */
    readonly lmtp: string;
    /** How far this copy applies changes later on purpose (Exchange: ReplayLagTime). */
    readonly replayLag: string;
  }[];
  /** Name of the copy which gets mail; changing it is the failover. */
  readonly activeCopy: string;
  readonly failover: {
    /** Manual: somebody changes activeCopy. Automatic: probes of the endpoints do. */
    readonly mode: 'Manual' | 'Automatic';
    /** How much a failover may have lost; that much more is resubmitted. */
    readonly lossWindow: string;
  };
  readonly duplicateSuppression: {
    /** Hide: a client which lost our reply and sends the same bytes with the same Message-ID again is seen once, and so is who does that on purpose. Show: both. */
    readonly clientRetries: 'Hide' | 'Show';
  };
}

export interface MailboxDatabaseStatus {
  readonly observedGeneration?: number;
  readonly activeCopy?: string;
  readonly activation?: number;
  readonly lastFailoverTime?: string;
  readonly counts?: {
    readonly queued?: number;
    readonly delivered?: number;
  };
  readonly copies?: readonly {
    readonly name: string;
    readonly reachable?: boolean;
    readonly lastProbeTime?: string;
    readonly message?: string;
  }[];
  readonly conditions?: readonly {
    readonly type: string;
    readonly status: 'True' | 'False' | 'Unknown';
    readonly observedGeneration?: number;
    readonly lastTransitionTime: string;
    readonly reason: string;
    readonly message: string;
  }[];
}

export interface ResubmitRequest {
  readonly kind: 'ResubmitRequest';
  readonly metadata: Metadata;
  readonly spec: ResubmitRequestSpec;
}

export interface ResubmitRequestSpec {
  /** The MailCluster of the same namespace. */
  readonly clusterRef: {
    readonly name: string;
  };
  /** Which messages: exactly one of the four. */
  readonly selector: {
    /** Name of a MailboxDatabase. */
    readonly database?: string;
    /** Reverse-path. */
    readonly sender?: string;
    /** Forward-path. */
    readonly recipient?: string;
    /** Message-ID with its angle brackets. */
    readonly messageId?: string;
  };
  /** Time of delivery, the ends included. */
  readonly window: {
    /** Start, RFC 3339. */
    readonly from: string;
    /** End; open when absent. */
    readonly to?: string;
  };
  /** Only what was delivered under activations up to this one; set by the operator after a failover. */
  readonly lostActivation?: number;
  readonly reason: 'Failover' | 'Manual';
  /** Count only. */
  readonly dryRun: boolean;
  /** Stop; what was resubmitted stays resubmitted. */
  readonly cancel: boolean;
}

export interface ResubmitRequestStatus {
  readonly observedGeneration?: number;
  /** Partial: everybody is done, but part of the window can no longer be covered; message says which. */
  readonly state?: 'Pending' | 'Running' | 'Completed' | 'CompletedWithErrors' | 'Partial' | 'Cancelled' | 'Failed';
  readonly message?: string;
  readonly startTime?: string;
  readonly completionTime?: string;
  readonly counts?: {
    readonly selected?: number;
    readonly resubmitted?: number;
    readonly byPrimaries?: number;
    readonly byShadows?: number;
    /** Resubmitted before already. */
    readonly present?: number;
    readonly failed?: number;
  };
  readonly members?: readonly {
    readonly name: string;
    readonly state?: 'Pending' | 'Running' | 'Paused' | 'Done' | 'Cancelled' | 'Lost';
    /** Of the queue database that reported. */
    readonly identity?: string;
    readonly selected?: number;
    readonly resubmitted?: number;
    readonly byPrimaries?: number;
    readonly byShadows?: number;
    readonly present?: number;
    readonly failed?: number;
    /** Its Safety Net is whole from here on; absent: it always was. */
    readonly completeSince?: string;
    readonly message?: string;
  }[];
  readonly conditions?: readonly {
    readonly type: string;
    readonly status: 'True' | 'False' | 'Unknown';
    readonly observedGeneration?: number;
    readonly lastTransitionTime: string;
    readonly reason: string;
    readonly message: string;
  }[];
}

export interface TransportOrder {
  readonly kind: 'TransportOrder';
  readonly metadata: Metadata;
  readonly spec: TransportOrderSpec;
}

export interface TransportOrderSpec {
  /** The MailCluster of the same namespace. */
  readonly clusterRef: {
    readonly name: string;
  };
  /** Who orders it: the user name of who creates this object, as the API server knows it. Transports record it. */
  readonly by: string;
  /** A delivery queue of every transport. */
  readonly queue?: {
    /** As `queue list` names it, for example mailbox:db01/east. */
    readonly name: string;
    /** Suspend holds until Resume; Retry tries what was put off now. */
    readonly action: 'Suspend' | 'Resume' | 'Retry';
  };
  /** One message, whoever owns it. */
  readonly message?: {
    /** Of the 250 reply. */
    readonly id: string;
    /** Suspend holds it back until Resume, which also lets a message in the queue poison go on; Remove gives up what is not delivered; RemoveWithNdr tells the sender, 550 5.7.1; Redirect hands it over to another member of its boundary. */
    readonly action: 'Suspend' | 'Resume' | 'Remove' | 'RemoveWithNdr' | 'Redirect';
    /** Redirect: the member that owns it now; another one that comes to own it first keeps it. */
    readonly from?: string;
    /** Redirect: the member that shall own it. */
    readonly to?: string;
  };
}

export interface TransportOrderStatus {
  /** InForce: in the topology document since generation, so every transport comes to know it. Superseded: a later order about the same thing came before this one was in force. */
  readonly state?: 'InForce' | 'Superseded' | 'Refused';
  readonly message?: string;
  /** Of the topology document. */
  readonly generation?: number;
  readonly decidedTime?: string;
}
