/** Site links of a MailCluster as the topology document has them. Promise: sorted by name, and the two sites of each. PURE. */
import type { SiteLink } from '../common/site-paths.ts';
import type { MailCluster } from './resource/generated.ts';
import { sizeBytes } from './resource/quantity.ts';

export const siteLinks = ({ spec }: MailCluster): readonly SiteLink[] =>
  spec.siteLinks
    .map(({ name, sites, cost, maxMessageSize }) => ({
      name,
      sites: [...sites].sort(),
      cost,
      maxMessageBytes: maxMessageSize === undefined ? null : sizeBytes(maxMessageSize),
    }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
