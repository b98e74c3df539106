/** Runs one dialog against the real edge. Owns: the meaning of every step. Fails with file line, what was expected and what came. */
import { networksOf } from '../../common/networks.ts';
import type { EdgeTls } from '../../common/smtp/server.ts';
import { until } from '../house/until.ts';
import type { Dialog, NumberedStep, Step } from './dialog-file.ts';
import { type EdgeRig, type Received, startRig } from './edge-rig.ts';
import { LineClient, turn } from './line-client.ts';
import { PolicyRig } from './policy-rig.ts';

/** Sends so far and the byte at which to cut, counted over all sends. */
interface Cut {
  readonly at: number | null;
  sent: number;
}

interface Run {
  readonly rig: EdgeRig;
  readonly dialog: Dialog;
  readonly policy: PolicyRig | null;
  readonly hears: (line: string) => void;
  readonly clients: Map<string, LineClient>;
  readonly cut: Cut;
  current: string;
  reply: readonly string[];
}

export const sentBytes = (dialog: Dialog): number =>
  dialog.steps.reduce((sum, { step }) => sum + (step.kind === 'send' ? step.bytes.length : 0), 0);

/** `hears` gets every reply line that the dialog looks at. */
export async function runDialog(
  dialog: Dialog,
  tls: EdgeTls,
  cutAt: number | null,
  hears: (line: string) => void = () => undefined,
): Promise<void> {
  const policy = dialog.policy ? await PolicyRig.start(dialog) : null;
  const rig = await startRig({
    ...(policy === null ? {} : policy.edgeOptions),
    listener: { tls: dialog.tls, relayFrom: dialog.relayFrom },
    limits: dialog.limits,
    users: dialog.users,
    maxReceivedHops: dialog.hops,
    tls: dialog.tls === 'None' ? null : tls,
    ...(dialog.proxyFrom === null ? {} : { proxyFrom: networksOf('@proxyFrom', [dialog.proxyFrom]) }),
  });
  policy?.connectTo(rig.recorder);
  const run: Run = {
    rig,
    dialog,
    policy,
    hears,
    clients: new Map(),
    cut: { at: cutAt, sent: 0 },
    current: 'main',
    reply: [],
  };
  try {
    await perform(run, { kind: 'connect', name: 'main' });
    for (const step of dialog.steps) await performAt(run, step);
  } finally {
    for (const client of run.clients.values()) client.drop();
    await rig.edge.close(false);
  }
}

async function performAt(run: Run, { line, step }: NumberedStep): Promise<void> {
  try {
    await perform(run, step);
  } catch (error) {
    const cut = run.cut.at === null ? '' : ` (sends cut at byte ${run.cut.at})`;
    throw new Error(`line ${line}${cut}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function here(run: Run): LineClient {
  const client = run.clients.get(run.current);
  if (client === undefined) throw new Error(`no connection ${run.current}`);
  return client;
}

async function perform(run: Run, step: Step): Promise<void> {
  const { rig } = run;
  switch (step.kind) {
    case 'send':
      return send(run, step.bytes);
    case 'reply':
      return expectLine(run, step.pattern, await here(run).line());
    case 'multi':
      run.reply = await here(run).reply();
      return expectLine(run, `${step.code}*`, run.reply[0] ?? '');
    case 'has':
    case 'lacks':
      if (run.reply.some((line) => line.slice(4) === step.words) === (step.kind === 'has')) return;
      throw new Error(`expected that the reply ${step.kind} ${step.words}: ${run.reply.join(' | ')}`);
    case 'connect':
      run.current = step.name;
      run.clients.set(step.name, await LineClient.connect(rig.edge.port, run.dialog.tls === 'Implicit'));
      return;
    case 'use':
      run.current = step.name;
      return;
    case 'starttls':
      return here(run).startTls();
    case 'pressed':
      if (run.policy === null) throw new Error('only with @policy');
      run.policy.pressedBy = step.resource;
      return;
    case 'advance':
      await turn();
      return rig.clock.advance(step.ms);
    case 'closed': {
      const unread = await here(run).closed();
      if (unread !== '') throw new Error(`expected the end of the connection, got ${JSON.stringify(unread)}`);
      return;
    }
    case 'drop':
      return here(run).drop();
    case 'shutdown':
      void rig.edge.close(true);
      return turn();
    case 'drain':
      await until('a full sink', () => rig.recorder.full > 0, { deadlineMs: 3_000, everyMs: 2 });
      return rig.recorder.drain();
    case 'release':
      await until('a held DATA', () => rig.recorder.holding > 0, { deadlineMs: 3_000, everyMs: 2 });
      return rig.recorder.release();
    case 'expect':
      return expectRecord(rig, step.path, step.value);
  }
}

async function send(run: Run, bytes: Buffer): Promise<void> {
  const { cut } = run;
  const at = cut.at === null ? -1 : cut.at - cut.sent;
  cut.sent += bytes.length;
  if (at <= 0 || at >= bytes.length) return here(run).send(bytes);
  here(run).send(bytes.subarray(0, at));
  await turn();
  here(run).send(bytes.subarray(at));
}

function expectLine({ hears }: Run, pattern: string, line: string): void {
  hears(line);
  const source = pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'));
  if (!new RegExp(`^${source.join('.*')}$`).test(line)) throw new Error(`expected "${pattern}", got "${line}"`);
}

function lookUp(rig: EdgeRig, path: string): unknown {
  if (path === 'messages') return rig.recorder.messages.length;
  if (path === 'closed') return rig.recorder.closed;
  if (path === 'auth') return rig.recorder.auth;
  const last: Received | undefined = rig.recorder.messages.at(-1);
  if (last === undefined) return 'no message';
  const facts: unknown = {
    ...last.envelope,
    content: last.content,
    aborted: last.aborted,
    ended: last.end !== null,
    sizeBytes: last.end?.sizeBytes ?? null,
    rejected: last.end === null || last.end.rejected === null ? null : last.end.rejected.code,
  };
  return path.split('.').reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], facts);
}

async function expectRecord(rig: EdgeRig, path: string, expected: unknown): Promise<void> {
  const want = JSON.stringify(expected);
  await until(
    `${path} to be ${want}`,
    () => {
      const got = JSON.stringify(lookUp(rig, path)) ?? 'undefined';
      if (got !== want) throw new Error(`it is ${got}`);
      return true;
    },
    { deadlineMs: 2_000, everyMs: 2 },
  );
}
