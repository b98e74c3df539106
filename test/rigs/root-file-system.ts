/**
 * A program in a root file system of an image, as a container runtime would start it under Restricted Pod Security: read-only root, a user without rights
 * and without groups, no new privileges, /tmp the only place to write, loopback its only network. Owns: mounts and namespaces, gone with the
 * process. Needs root, util-linux and iproute2.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';

export interface Confined {
  /** UID:GID */
  readonly user: string;
  readonly environment: readonly string[];
}

const UNSHARE = ['unshare', '--mount', '--net', '--pid', '--fork', '--kill-child'] as const;

/**
 * $1: the root; then what to start. The shell stays the first process: it ends with `unshare`, and everything with it. A program that changes its user would
 * lose the signal by which it is told.
 */
const ENTER = `
set -eu
root=$1; shift
ip link set lo up
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
cp -r "$root.files/." "$root/tmp/"
chmod 1777 "$root/tmp"
mount -o remount,ro,bind "$root"
"$@" && exit 0 || exit $?
`;

const where = (program: string): string =>
  ['/usr/sbin', '/usr/bin', '/sbin', '/bin'].map((directory) => join(directory, program)).find(existsSync) ?? program;

/** Why this machine cannot do it, or null. */
export function cannotConfine(): string | null {
  if (process.getuid?.() !== 0) return 'a root file system of its own needs root';
  const [unshare, ...namespaces] = UNSHARE;
  try {
    const check = 'mount -t tmpfs none /mnt && ip link set lo up && command -v setpriv';
    execFileSync(unshare, [...namespaces, 'sh', '-c', check], { stdio: 'pipe' });
    return null;
  } catch (error) {
    return `util-linux, iproute2 or namespaces are missing: ${error instanceof Error ? error.message.trim() : String(error)}`;
  }
}

/** Files in `ROOT.files` are in its /tmp. */
export function confined(root: string, { user, environment }: Confined, command: readonly string[]): ChildProcess {
  for (const place of ['proc', 'dev', 'tmp']) mkdirSync(join(root, place), { recursive: true });
  mkdirSync(`${root}.files`, { recursive: true });
  const [unshare, ...namespaces] = UNSHARE;
  return spawn(
    unshare,
    [
      ...[...namespaces, 'sh', '-c', ENTER, 'enter', root],
      ...[where('env'), '-i', ...environment],
      ...[where('setpriv'), '--no-new-privs', where('chroot'), `--userspec=${user}`, '--groups=', root],
      ...command,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
}
