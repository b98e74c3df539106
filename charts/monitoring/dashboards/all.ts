/** The dashboards, in the order in which one looks. PURE data. */
import type { Dashboard } from '../dashboard.ts';
import { FRONT_END } from './front-end.ts';
import { OPERATOR } from './operator.ts';
import { OVERVIEW } from './overview.ts';
import { QUEUES } from './queues.ts';
import { REDUNDANCY } from './redundancy.ts';
import { SAFETY_NET } from './safety-net.ts';
import { TRANSPORT } from './transport.ts';

export const DASHBOARDS: readonly Dashboard[] = [
  OVERVIEW,
  REDUNDANCY,
  QUEUES,
  SAFETY_NET,
  FRONT_END,
  TRANSPORT,
  OPERATOR,
];
