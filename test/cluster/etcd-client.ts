/**
 * The few calls that tests make to etcd itself, through its JSON gateway. Owns: nothing. Fails with what etcd says.
 */
import { request } from 'node:http';

function call(socketPath: string, path: string, body: unknown): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath, method: 'POST', path, headers: { host: 'localhost' } }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
      });
      response.once('error', reject);
      response.once('end', () => {
        if (response.statusCode === 200) resolve(JSON.parse(text) as Record<string, unknown>);
        else reject(new Error(`etcd ${path}: ${response.statusCode} ${text}`));
      });
    });
    sent.setTimeout(10_000, () => sent.destroy(new Error(`etcd ${path}: no answer`)));
    sent.once('error', reject);
    sent.end(JSON.stringify(body));
  });
}

/** What lies before now is gone: a watch or a page that starts there is answered 410. Resolves with the revision. */
export async function compact(socketPath: string): Promise<string> {
  const { header } = await call(socketPath, '/v3/kv/range', { key: 'AA==', limit: 1 });
  const { revision } = header as { readonly revision: string };
  await call(socketPath, '/v3/kv/compaction', { revision, physical: true });
  return revision;
}
