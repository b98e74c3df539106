/** Watches of the fake API server: events from a revision on, selectors, bookmarks, the end by timeout, 410 for what was compacted. */
import type { ServerResponse } from 'node:http';
import { apiVersionOf, type KubeObject } from '../../../operator/kube/kube-object.ts';
import { selectorOf } from './listing.ts';
import { collectionOf, type Place } from './objects.ts';
import { expired } from './refusal.ts';
import type { Change, Storage } from './storage.ts';

/** The real server: a bookmark about two seconds before a watch ends. */
const LAST_BOOKMARK_MS = 2_000;

export function serveWatch(
  storage: Storage,
  place: Place,
  query: URLSearchParams,
  response: ServerResponse,
  bookmarkMs: number,
): void {
  const from = Number(query.get('resourceVersion') ?? 0);
  const timeoutMs = Number(query.get('timeoutSeconds') ?? 300) * 1000;
  const collection = collectionOf(place.known);
  const selects = selectorOf(place, query);
  const say = (type: string, object: object): void => {
    response.write(`${JSON.stringify({ type, object })}\n`);
  };
  response.writeHead(200, { 'content-type': 'application/json' });
  response.flushHeaders();
  if (from < storage.compactedRevision) {
    // Like the real one: not the code of the answer but an event.
    say('ERROR', expired(`too old resource version: ${from} (${storage.compactedRevision})`).status());
    response.end();
    return;
  }
  const tell = (change: Change): void => {
    if (change.collection !== collection) return;
    const event = eventOf(change, selects);
    if (event !== null) say(event.type, event.object);
  };
  const bookmark = (): void =>
    say('BOOKMARK', {
      apiVersion: apiVersionOf(place.known.kind),
      kind: place.known.kind.kind,
      metadata: { resourceVersion: String(storage.revision) },
    });
  for (const change of storage.since(from)) tell(change);
  const stopWatching = storage.watch(tell);
  const timers = [
    setInterval(bookmark, bookmarkMs),
    setTimeout(bookmark, Math.max(0, timeoutMs - LAST_BOOKMARK_MS)),
    setTimeout(() => response.end(), timeoutMs),
  ];
  response.once('close', () => {
    stopWatching();
    for (const timer of timers) clearTimeout(timer);
  });
}

/** An object that begins or ceases to be selected is added or deleted for this watcher. */
function eventOf(
  { object, before, revision }: Change,
  selects: (object: KubeObject) => boolean,
): { readonly type: string; readonly object: KubeObject } | null {
  const was = before !== null && selects(before);
  const is = object !== null && selects(object);
  if (object !== null && is) return { type: was ? 'MODIFIED' : 'ADDED', object };
  if (before === null || !was) return null;
  const last = object ?? before;
  return { type: 'DELETED', object: { ...last, metadata: { ...last.metadata, resourceVersion: String(revision) } } };
}
