/** The names of events in message tracking: each is one that somebody records, and those that people are told of, or read by, are among them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { expect, test } from 'vitest';
import { TRACKED_EVENTS } from '../../common/tracked-events.ts';
import { TRACK_HELP } from '../../operator/cli/trace-find.ts';
import { listFiles, ROOT } from '../house/sources.ts';

const textOf = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

const NAMES: readonly string[] = TRACKED_EVENTS;

/** Strings that are values of the program: no types, no comments, nothing that is only compared with. */
function said(path: string): ReadonlySet<string> {
  const found = new Set<string>();
  const look = (node: ts.Node): void => {
    if (ts.isTypeNode(node)) return;
    const { parent } = node;
    const isCompared =
      ts.isBinaryExpression(parent) && parent.operatorToken.kind === ts.SyntaxKind.EqualsEqualsEqualsToken;
    if (ts.isStringLiteral(node) && !isCompared) found.add(node.text);
    ts.forEachChild(node, look);
  };
  ts.forEachChild(ts.createSourceFile(path, textOf(path), ts.ScriptTarget.Latest, true), look);
  return found;
}

/** The core says `Track`; a front end sends its events along with the message. */
const records = (path: string): boolean =>
  (path.startsWith('transport/core/') && /kind: 'Track'|trackEnd\(/.test(textOf(path))) ||
  ['frontend/edge.ts', 'frontend/held-message.ts'].includes(path);

test('each is recorded by somebody', () => {
  expect(NAMES.length).toBeGreaterThan(20);
  const recorded = new Set(
    listFiles()
      .filter((path) => path.endsWith('.ts') && records(path))
      .flatMap((path) => [...said(path)]),
  );
  expect(NAMES.filter((name) => !recorded.has(name))).toEqual([]);
});

test('what a trace makes of them, and what its help names, is among them', () => {
  const inHelp = /--event EVENT .*?: (.*), \.\.\./.exec(TRACK_HELP)?.[1]?.split(', ') ?? [];
  expect(inHelp.length).toBeGreaterThan(5);
  const inTree = [...said('operator/cli/trace-tree.ts')].filter((text) => /^[A-Z]{3,}$/.test(text));
  expect(inTree.length).toBeGreaterThan(5);
  expect([...inHelp, ...inTree].filter((name) => !NAMES.includes(name))).toEqual([]);
});
