/**
 * What a listener may do with a message besides taking it, for rows of the bench that are run only when asked for: a content filter (OpenDKIM, which signs; Postfix has the same one),
 * Authentication-Results, those with ARC. Owns: what else has to run for that, and the message that is sent. Its evidence: how often front ends say that they did it.
 */
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dkimSign } from 'mailauth/lib/dkim/sign.js';
import { dkimpy } from '../rigs/dkimpy.ts';
import { DnsServer } from '../rigs/dns-server.ts';
import { OpenDkim } from '../rigs/opendkim.ts';
import { newSigningKey } from '../rigs/signing-key.ts';
import { cpuByProcess } from './proc.ts';

export type Look = 'filter' | 'results' | 'arc';

export interface Looking extends AsyncDisposable {
  /** Of the listener of a MailCluster. */
  readonly listener: string;
  /** Lines of main.cf; null: Postfix has no such thing. */
  readonly postfix: readonly string[] | null;
  /** File with the message that is sent; null: one of `smtp-source`. */
  readonly message: string | null;
  /** What front ends count once for each message. */
  readonly counted: RegExp;
  /** Of what runs beside the sides and works for them. */
  cpu(): ReadonlyMap<string, number>;
}

/** The sender of `smtp-source`. */
const DOMAIN = 'example.org';
const LIST = 'list.example';
const US = 'mx.example.com';

const present = <T extends object>(found: T | { readonly missing: string }): T => {
  if ('missing' in found) throw new Error(String(found.missing));
  return found;
};

export async function startLooking(look: Look, bytes: number): Promise<Looking> {
  return look === 'filter' ? await filter() : await results(look, bytes);
}

async function filter(): Promise<Looking> {
  const options = { domain: DOMAIN, selector: 's1', privateKey: newSigningKey().pem };
  const opendkim = present(await OpenDkim.start(options));
  return {
    listener: `contentFilter: { address: "127.0.0.1:${opendkim.port}" }`,
    postfix: [`smtpd_milters = inet:127.0.0.1:${opendkim.port}`, 'milter_default_action = tempfail'],
    message: null,
    counted: /^mailcluster_content_filter_messages_total\{.*result="accepted"/,
    cpu: () => cpuByProcess(opendkim.pid, (_, name) => name),
    [Symbol.asyncDispose]: () => opendkim[Symbol.asyncDispose](),
  };
}

async function results(look: 'results' | 'arc', bytes: number): Promise<Looking> {
  const { pem, record } = newSigningKey();
  const dns = await DnsServer.start({
    [DOMAIN]: { txt: ['v=spf1 ip4:127.0.0.1 -all'] },
    [`s1._domainkey.${DOMAIN}`]: { txt: [record] },
    [`_dmarc.${DOMAIN}`]: { txt: ['v=DMARC1; p=reject'] },
    [`s1._domainkey.${LIST}`]: { txt: [record] },
  });
  const message = join(tmpdir(), `signed-${look}-${bytes}.eml`);
  const content = look === 'arc' ? await sealed(await signed(bytes, pem), pem) : await signed(bytes, pem);
  await writeFile(message, content.toString('latin1').replaceAll('\r\n', '\n'), { mode: 0o644 });
  const checks = look === 'arc' ? 'SPF, DKIM, DMARC, ARC' : 'SPF, DKIM, DMARC';
  const settings = `authservId: ${US}, timeout: 30s, dnsServers: ["${dns.server}"], checks: [${checks}]`;
  return {
    listener: `authenticationResults: { ${settings} }`,
    postfix: null,
    message,
    counted: new RegExp(
      `^mailcluster_authentication_results_total\\{.*method="${look === 'arc' ? 'arc' : 'dmarc'}",result="pass"`,
    ),
    cpu: () => new Map(),
    [Symbol.asyncDispose]: () => dns[Symbol.asyncDispose](),
  };
}

async function signed(bytes: number, privateKey: string): Promise<Buffer> {
  const header = `From: <a@${DOMAIN}>\r\nTo: <bench@example.com>\r\nSubject: signed\r\nMIME-Version: 1.0\r\n\r\n`;
  const text = `${header}${`${'X'.repeat(76)}\r\n`.repeat(Math.ceil(bytes / 78))}`;
  const how = { signingDomain: DOMAIN, selector: 's1', privateKey };
  const { signatures } = await dkimSign(text, { ...how, signatureData: [how] });
  return Buffer.from(signatures + text);
}

/** As a list passes it on. */
async function sealed(message: Buffer, privateKey: string): Promise<Buffer> {
  const how = { selector: 's1', domain: LIST, privateKey, authservId: LIST };
  const field = `Authentication-Results: ${LIST}; arc=none; spf=pass smtp.mailfrom=${DOMAIN}\r\n`;
  return await present(await dkimpy()).seal(Buffer.concat([Buffer.from(field), message]), how);
}
