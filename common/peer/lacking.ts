/** What members that refuse mail for want of something have in common, for those who must say why (semantics.md R10). PURE. */
import type { Load } from './messages.ts';

/** The resources that they lack, sorted, with commas between; null unless each of them, and there is one, has back pressure. */
export function lackedByAll(loads: readonly (Load | null)[]): string | null {
  if (loads.length === 0) return null;
  const lacking = new Set<string>();
  for (const load of loads) {
    if (load === null || load.backPressure === 'Normal') return null;
    for (const resource of (load.pressedBy || 'resources').split(', ')) lacking.add(resource);
  }
  return [...lacking].sort().join(', ');
}
