/** One copy of a message in words: its id where that is not the one that was asked for, envelope, epoch, holders, recipients. Pure. */
import type { MessageDetailAnswer } from './answers.ts';
import { age, printable, size, table, time } from './output.ts';

export function renderCopy(member: string, { facts, state, ageMs }: MessageDetailAnswer, asked: string): string {
  const { envelope } = facts;
  const holders = state.placements.map((one) => `${one.member} (${one.status})`).join(', ');
  const lines = [
    `Copy on ${member}: ${state.queue}`,
    ...(facts.id === asked ? [] : [`  id         ${facts.id}, as which it crossed to this boundary`]),
    `  from       <${envelope.reversePath}>`,
    `  size       ${size(facts.sizeBytes)} (${facts.sizeBytes} bytes), SHA-256 ${facts.digest}`,
    `  accepted   ${time(facts.acceptedAtMs)} UTC by ${envelope.frontend}/${envelope.listener} from ${envelope.client.address}`,
    ...(ageMs === undefined ? [] : [`  age        ${age(ageMs)}`]),
    `  epoch      try ${state.epoch.try}, term ${state.epoch.term}, owner ${state.epoch.owner}`,
    `  holders    ${holders || 'none'}`,
    ...(state.unprotected === null ? [] : [`  one copy   ${state.unprotected}`]),
    ...(Number(state.suspended ?? 0) % 2 === 1 ? ['  suspended  by a person; "message resume" lets it go'] : []),
    ...(state.finalAtMs === null ? [] : [`  final      ${time(state.finalAtMs)} UTC`]),
  ];
  interface Row {
    readonly address: string;
    readonly outcome: string;
    readonly where: string | null;
    readonly reply: string | null;
  }
  const recipients: readonly Row[] =
    state.recipients?.map((one) => {
      return { ...one, where: one.database ?? one.connector ?? null, reply: one.reply ?? null };
    }) ??
    envelope.recipients.map(({ address }) => ({ address, outcome: 'not yet resolved', where: null, reply: null }));
  const rows = table(
    [
      { title: '  RECIPIENT', value: (row) => `  ${row.address}` },
      { title: 'OUTCOME', value: (row) => row.outcome },
      { title: 'WHERE', value: (row) => row.where },
      { title: 'REPLY', value: (row) => row.reply },
    ],
    recipients,
  );
  return `${lines.map((line) => `${printable(line)}\n`).join('')}${rows}`;
}
