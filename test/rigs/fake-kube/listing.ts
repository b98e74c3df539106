/** Lists of the fake API server: pages of one revision, selectors, continue tokens that expire by compaction. */
import { apiVersionOf, type KubeObject } from '../../../operator/kube/kube-object.ts';
import { collectionOf, type Place } from './objects.ts';
import { expired, Refusal } from './refusal.ts';
import type { Storage } from './storage.ts';

interface Token {
  readonly revision: number;
  readonly after: string;
}

export type Selects = (object: KubeObject) => boolean;

export function listPage(storage: Storage, place: Place, query: URLSearchParams): object {
  const token = tokenOf(query.get('continue'));
  if (token !== null && token.revision < storage.compactedRevision)
    throw expired('The provided continue parameter is too old to display a consistent list result.');
  const revision = token?.revision ?? storage.revision;
  const selects = selectorOf(place, query);
  const all = storage.at(collectionOf(place.known), revision).filter(([, object]) => selects(object));
  const rest = token === null ? all : all.filter(([key]) => key > token.after);
  const limit = Number(query.get('limit') ?? 0);
  const page = limit > 0 ? rest.slice(0, limit) : rest;
  const last = page.at(-1)?.[0];
  const more = page.length < rest.length && last !== undefined;
  return {
    apiVersion: apiVersionOf(place.known.kind),
    kind: `${place.known.kind.kind}List`,
    metadata: {
      resourceVersion: String(revision),
      ...(more ? { continue: Buffer.from(JSON.stringify({ revision, after: last })).toString('base64url') } : {}),
    },
    items: page.map(([, { apiVersion: _, kind: __, ...item }]) => item),
  };
}

function tokenOf(text: string | null): Token | null {
  if (text === null || text === '') return null;
  try {
    return JSON.parse(Buffer.from(text, 'base64url').toString('utf8')) as Token;
  } catch {
    throw new Refusal(400, 'BadRequest', 'continue key is not valid');
  }
}

/** Namespace, labels (`a=b`, `a!=b`, `a`, `!a`), field `metadata.name`. */
export function selectorOf({ namespace }: Place, query: URLSearchParams): Selects {
  const labels = termsOf(query.get('labelSelector')).map(labelTerm);
  const fields = termsOf(query.get('fieldSelector')).map((term): Selects => {
    const name = /^metadata\.name==?(.+)$/.exec(term)?.[1];
    if (name === undefined) throw new Refusal(400, 'BadRequest', `field label not supported: ${term}`);
    return (object) => object.metadata.name === name;
  });
  return (object) =>
    (namespace === '' || object.metadata.namespace === namespace) && [...labels, ...fields].every((one) => one(object));
}

const termsOf = (text: string | null): string[] => (text === null || text === '' ? [] : text.split(','));

function labelTerm(term: string): Selects {
  const [, isAbsent, name = '', operator, value] = /^(!?)([^=!]+)(?:(!?=)=?(.*))?$/.exec(term) ?? [];
  return ({ metadata: { labels = {} } }) => {
    if (operator === undefined) return (labels[name] === undefined) === (isAbsent === '!');
    return (labels[name] === value) === (operator === '=');
  };
}
