/** Members of the cluster `contoso` as the operator sees them: real TLS servers with certificates of their own, and the operator's side of the connection. */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { TestContext } from 'vitest';
import type { AdminTls } from '../../operator/admin-client.ts';
import { createAuthority, issueCertificate } from '../../operator/pki.ts';

export interface MemberServer {
  readonly server: Server;
  readonly certificatePem: string;
}

export interface MemberServers {
  readonly tls: AdminTls;
  /** Port 0: one that is free. Ends with the test. */
  serve(name: string, host: string, port: number, answer: (response: ServerResponse) => unknown): Promise<MemberServer>;
}

export async function memberServers(context: TestContext): Promise<MemberServers> {
  const authority = await createAuthority('contoso');
  const issue = (role: 'transport' | 'operator', name: string) =>
    issueCertificate(authority, { cluster: 'contoso', role, name, hosts: [], days: 1 });
  const operator = await issue('operator', 'mailcluster-operator');
  const ca = authority.certificatePem;
  return {
    tls: { ca, cert: operator.certificatePem, key: operator.keyPem, cluster: 'contoso' },
    serve: async (name, host, port, answer) => {
      const { certificatePem, keyPem } = await issue('transport', name);
      const options = { ca, cert: certificatePem, key: keyPem, requestCert: true };
      const server = createServer(options, (_, response) => answer(response));
      context.onTestFinished(() => {
        server.close();
        server.closeAllConnections();
      });
      server.listen(port, host);
      await once(server, 'listening');
      return { server, certificatePem };
    },
  };
}
