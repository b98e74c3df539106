/**
 * `mailcluster validate -f FILE...`: says whether resources are right, without starting or changing anything. Owns: its
 * arguments and output. Exit code 0: valid, one line per document on stdout; 2: problems on stderr, or wrong usage.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { MailboxDatabase, MailCluster, ResubmitRequest, TransportOrder } from '../resource/generated.ts';
import { type LoadedResources, loadResources } from '../resource/load.ts';
import { type Problem, renderProblems } from '../resource/problem.ts';
import { planMembers } from '../topology.ts';

export const VALIDATE_HELP = `Usage: mailcluster validate -f FILE... [-q]

Checks MailCluster, MailboxDatabase, ResubmitRequest and TransportOrder resources: structure, defaults and rules of crds/*.yaml, and what
spans two objects. Nothing is started or changed.

  -f, --file FILE   a file, a directory (its .yaml, .yml and .json files), or - for stdin; may be repeated
  -q, --quiet       say nothing when everything is valid
  -h, --help        this text

Exit code: 0 valid, 2 problems (on stderr, each with file, line, path, what is wrong and what would be right).

Examples:
  mailcluster validate -f examples/two-site-dag.yaml
  mailcluster validate -f cluster.yaml -f databases/
  kubectl get mc,mbdb -o json | jq -c '.items[]' | sed 's/^/---\\n/' | mailcluster validate -f -
`;

export interface ValidateIo {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  readonly readStdin: () => string;
}

const processIo: ValidateIo = {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  readStdin: () => readFileSync(0, 'utf8'),
};

type Arguments =
  | { readonly kind: 'run'; readonly files: readonly string[]; readonly quiet: boolean }
  | { readonly kind: 'help' }
  | { readonly kind: 'wrong'; readonly why: string };

function readArguments(args: readonly string[]): Arguments {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        file: { type: 'string', short: 'f', multiple: true },
        quiet: { type: 'boolean', short: 'q', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    if (values.help) return { kind: 'help' };
    // `-f a.yaml b.yaml` (a shell's wildcard) means both.
    const files = [...(values.file ?? []), ...positionals];
    if (values.file === undefined) return { kind: 'wrong', why: '-f FILE is missing' };
    return { kind: 'run', files, quiet: values.quiet };
  } catch (error) {
    return { kind: 'wrong', why: error instanceof Error ? error.message : String(error) };
  }
}

export async function validateCommand(args: readonly string[], io: ValidateIo = processIo): Promise<number> {
  const parsed = readArguments(args);
  if (parsed.kind === 'help') {
    io.out(VALIDATE_HELP);
    return 0;
  }
  if (parsed.kind === 'wrong') {
    io.err(`mailcluster validate: ${parsed.why}\n\n${VALIDATE_HELP}`);
    return 2;
  }
  const loaded = loadResources(parsed.files, { missingReferences: 'note', readStdin: io.readStdin });
  if (!loaded.ok) {
    io.err(renderProblems(loaded.problems));
    return 2;
  }
  if (!parsed.quiet) io.out([...summary(loaded), ...loaded.notes.map(renderNote)].map((line) => `${line}\n`).join(''));
  return 0;
}

function renderNote(note: Problem): string {
  const where = `${note.file}:${note.line}: ${note.document}${note.path === '' ? '' : `  ${note.path}`}`;
  return `note: ${where}: ${note.problem}; ${note.fix}`;
}

function summary(loaded: LoadedResources): readonly string[] {
  return [
    ...loaded.clusters.map(describeCluster),
    ...loaded.databases.map(describeDatabase),
    ...loaded.resubmitRequests.map(describeRequest),
    ...loaded.transportOrders.map(describeOrder),
    ...loaded.secrets.map(
      (secret) => `valid: Secret/${secret.metadata.name}: ${counted(Object.keys(secret.data).length, 'key')}`,
    ),
    ...loaded.configMaps.map(
      (map) => `valid: ConfigMap/${map.metadata.name}: ${counted(Object.keys(map.data).length, 'key')}`,
    ),
  ];
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

function describeCluster(cluster: MailCluster): string {
  const plan = planMembers(cluster);
  const boundaries = new Set(plan.transports.map((transport) => transport.boundary)).size;
  const places = `${counted(plan.transports.length, 'transport')} in ${counted(cluster.spec.sites.length, 'site')}`;
  const kinds = boundaries === 1 ? '1 boundary' : `${boundaries} boundaries`;
  return `valid: MailCluster/${cluster.metadata.name}: ${places}, ${kinds}, ${counted(plan.frontends.length, 'front end')}`;
}

function describeDatabase({ metadata, spec }: MailboxDatabase): string {
  const copies = spec.copies.length === 1 ? '1 copy' : `${spec.copies.length} copies`;
  const boundary = spec.dag === undefined ? `site/${spec.site}` : `dag/${spec.dag}`;
  return `valid: MailboxDatabase/${metadata.name}: ${copies} in ${boundary} of ${spec.clusterRef.name}, ${spec.activeCopy} active`;
}

function describeOrder({ metadata, spec: { queue, message, by } }: TransportOrder): string {
  const about = queue === undefined ? `message ${message?.id}` : `queue ${queue.name}`;
  return `valid: TransportOrder/${metadata.name}: ${queue?.action ?? message?.action} of ${about} by ${by}`;
}

function describeRequest({ metadata, spec }: ResubmitRequest): string {
  const [field, value] = Object.entries(spec.selector)[0] ?? ['', ''];
  return `valid: ResubmitRequest/${metadata.name}: ${field} ${value} from ${spec.window.from} to ${spec.window.to ?? 'now'}${spec.dryRun ? ', dry run' : ''}`;
}
