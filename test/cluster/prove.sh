#!/usr/bin/env bash
# The node level from nothing to nothing: up, every proof of smoke.sh, down, and a comparison of the machine before and after. Runs under a
# name of its own, so a cluster that is up stays as it is. Ends what it started also when it fails or is interrupted. Needs root.
#   prove.sh [options of up.sh]
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
export CLUSTER_NAME=prove
unset CLUSTER_DIR
[[ $EUID == 0 ]] || { echo "prove.sh: needs root" >&2; exit 1; }
W=$(mktemp -d)
finish() { "$HERE/down.sh" >/dev/null 2>&1 || true; rm -rf "$W"; }
trap finish EXIT
trap 'exit 130' INT TERM HUP

machine() { # what a cluster makes or changes, one line each
  ip -o link | awk -F': ' '{ sub(/@.*/, "", $2); print "link " $2 }'
  ip route | sed 's/^/route /'
  find /run/netns -mindepth 1 2>/dev/null | sed 's/^/netns /'
  awk '{ print "mount " $2 " " $3 }' /proc/self/mounts
  find /sys/fs/cgroup -maxdepth 3 -name 'mc-*' | sed 's/^/cgroup /'
  sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes \
    fs.inotify.max_user_instances | sed 's/^/sysctl /'
  losetup -nlO NAME,BACK-FILE 2>/dev/null | sed 's/^/loop /'
  local p; for p in /proc/[0-9]*; do
    { tr '\0' ' ' <"$p/cmdline" | grep -E 'mailcluster-prove|/run/bin/|containerd' && grep -q '^State:.[^Z]' "$p/status"; } 2>/dev/null | sed "s|^|process |" || true
  done
}

machine | sort >"$W/before"
T0=$EPOCHREALTIME
"$HERE/up.sh" "$@"
rc=0; "$HERE/smoke.sh" || rc=1
"$HERE/down.sh"
machine | sort >"$W/after"
if ! diff "$W/before" "$W/after"; then echo "FAIL: the cluster left something behind (> above)"; rc=1; fi
exit $rc
