/**
 * Who we are to the API server and how we know it: the port between credentials (`kube-config.ts`) and connections (`http-channel.ts`).
 */
export interface TlsMaterial {
  readonly ca: string | null;
  readonly cert: string | null;
  readonly key: string | null;
  /** False only when the kubeconfig says `insecure-skip-tls-verify`. */
  readonly isVerified: boolean;
  readonly serverName: string | null;
}

export interface Credentials {
  readonly tls: TlsMaterial;
  /** `authorization`, impersonation. */
  readonly headers: Readonly<Record<string, string>>;
}

export interface KubeIdentity {
  /** `https://10.0.0.1:443`, no path. */
  readonly server: string;
  /** Our own namespace in a cluster, or that of the context. */
  readonly namespace: string;
  /** Cheap: asked before every call. Rejects when there are none (unreadable token, failed exec plugin). */
  credentials(): Promise<Credentials>;
  /** The server answered 401: the next `credentials` must read them anew. */
  refuse(): void;
}
