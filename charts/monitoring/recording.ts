/**
 * What is computed once for all who ask: the two objectives of the service, over the windows that burn alerts compare. PURE data. Names are
 * `level:metric:operation`; by namespace and cluster.
 */
export interface RecordingRule {
  readonly record: string;
  readonly expr: string;
}

/** Part of the complete messages that may be answered otherwise than 250, and that may take longer than SLOW_SECONDS, over 30 days. */
export const ERROR_BUDGET = 0.001;
export const SLOW_BUDGET = 0.01;
/** A bucket of mailcluster_proxy_duration_seconds. */
export const SLOW_SECONDS = '2.5';

export const WINDOWS = ['5m', '30m', '1h', '6h'] as const;

const by = (expr: string): string => `sum by (namespace, cluster) (${expr})`;
const rate = (series: string, window: string): string => by(`rate(${series}[${window}])`);
const DURATION = 'mailcluster_proxy_duration_seconds';

const errors = (window: string): RecordingRule => ({
  record: `mailcluster:proxy_errors:ratio_rate${window}`,
  expr: `${rate(`${DURATION}_count{outcome!="accepted"}`, window)} / ${rate(`${DURATION}_count`, window)}`,
});

const slow = (window: string): RecordingRule => ({
  record: `mailcluster:proxy_slow:ratio_rate${window}`,
  expr: `1 - ${rate(`${DURATION}_bucket{outcome="accepted",le="${SLOW_SECONDS}"}`, window)} / ${rate(`${DURATION}_count{outcome="accepted"}`, window)}`,
});

export const RECORDING_RULES: readonly RecordingRule[] = [...WINDOWS.map(errors), ...WINDOWS.map(slow)];
