# Shared by the scripts of the node level: names, paths, pid files. Sourced, never run.
#
#   CLUSTER_NAME   1-6 characters [a-z0-9], default "mc". Names the bridge, the network namespaces and the cgroups, so clusters can coexist.
#   CLUSTER_DIR    everything this cluster owns on disk; default /var/lib/mailcluster-NAME.
#   CLUSTER_BIN    a directory of built programs, instead of building them (build.sh).

set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }
say() { printf '%7.1fs  %s\n' "$(since "${T0:-$EPOCHREALTIME}")" "$*"; }
since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

CLUSTER_NAME=${CLUSTER_NAME:-mc}
[[ $CLUSTER_NAME =~ ^[a-z][a-z0-9]{0,5}$ ]] || die "CLUSTER_NAME must be a letter and up to five of [a-z0-9], got '$CLUSTER_NAME'"
CLUSTER_DIR=${CLUSTER_DIR:-/var/lib/mailcluster-$CLUSTER_NAME}
CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/mailcluster

# What up.sh decided: addresses, options, BIN (the built programs), TOOLS (root of the unpacked Debian packages, or /). Absent before.
unset SERVER BIN TOOLS OPTIONS CLUSTER_NODES CLUSTER_INDEX
[[ ! -r $CLUSTER_DIR/cluster.conf ]] || . "$CLUSTER_DIR/cluster.conf"
export CLUSTER_NAME CLUSTER_DIR

# --- Debian programs that need not be installed: unpacked in the cache, seen at their usual places in a mount namespace of their own

with_tools() {
  if [[ $TOOLS == / ]]; then "$@"; else
    unshare --mount --propagation private sh -c 'mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr && shift && exec "$@"' sh "$TOOLS" "$@"
  fi
}
tool_path() { # where the file of a program is
  local d; for d in usr/sbin usr/bin; do [[ ! -x ${TOOLS%/}/$d/$1 ]] || { echo "${TOOLS%/}/$d/$1"; return; }; done
  die "no program $1 in $TOOLS"
}

# --- processes: a pid file holds "pid starttime", so a reused pid is never ours

starttime() { # of a process that runs; a zombie does not
  local s; { read -r s <"/proc/$1/stat"; } 2>/dev/null || return 1
  s=${s##*) }; set -- $s; [[ $1 != Z ]] && echo "${20}"
}

record() { echo "$2 $(starttime "$2")" >"$CLUSTER_DIR/run/$1.pid"; }

pid_of() { # pid_of NAME: prints the pid when that very process still runs
  local pid start
  { read -r pid start <"$CLUSTER_DIR/run/$1.pid"; } 2>/dev/null || return 1
  [[ $(starttime "$pid") == "$start" ]] && echo "$pid"
}

spawn() { # spawn NAME COMMAND...: a daemon in a session of its own
  local name=$1; shift
  mkdir -p "$CLUSTER_DIR/run" "$CLUSTER_DIR/log"
  ( cd "$CLUSTER_DIR"; exec setsid "$@" >>"$CLUSTER_DIR/log/$name.log" 2>&1 </dev/null ) &
  record "$name" $!
  disown $!
}

halt() { # halt NAME [SIGNAL]: ends it and waits; SIGKILL after 10 s
  local pid i
  if pid=$(pid_of "$1"); then
    kill "-${2:-TERM}" "$pid" 2>/dev/null || true
    for ((i = 0; i < 400; i++)); do
      pid_of "$1" >/dev/null || break
      ((i == 200)) && kill -KILL "$pid" 2>/dev/null
      sleep 0.05
    done
    ! pid_of "$1" >/dev/null || die "$1 (pid $pid) does not end"
  fi
  rm -f "$CLUSTER_DIR/run/$1.pid"
}

await() { # await SECONDS WHAT COMMAND...: polls until the command succeeds
  local limit=$1 what=$2 t=$SECONDS; shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS - t < limit)) || die "not within $limit s: $what"
    sleep 0.2
  done
}

# --- names of one cluster's kernel objects

netns() { echo "mc-$CLUSTER_NAME-$1"; }     # network namespace of a node or "cp"
link() { echo "v$CLUSTER_NAME-$1"; }        # its end on the bridge
BRIDGE=mc-$CLUSTER_NAME
CGROUP=mc-$CLUSTER_NAME
LOCK=/run/mailcluster.lock       # of the machine: its subnets and its sysctls
SYSCTLS=/run/mailcluster.sysctls # as they were before the first cluster
NETNS=/run/mailcluster.netns     # there: the first `ip netns add` of the machine was ours, and mounted /run/netns

node_ip() { echo "172.30.$CLUSTER_INDEX.$((10 + ${1#n}))"; }
pod_cidr() { echo "10.$((100 + CLUSTER_INDEX)).${1#n}.0/24"; }
nodes() { local i; for ((i = 1; i <= ${CLUSTER_NODES:-0}; i++)); do echo "n$i"; done; }
# Version 2 has one tree, version 1 one per controller.
cgroup_v2() { [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]; }
cgroup_roots() { if cgroup_v2; then echo /sys/fs/cgroup; else find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d ! -name unified; fi; }

zone() { local z=($CLUSTER_ZONES); echo "${z[$(((${1#n} - 1) % ${#z[@]}))]}"; }

cable() { # cable NAME ADDRESS: a fresh network namespace with one cable to the bridge
  local ns l n; ns=$(netns "$1") l=$(link "$1")
  uncable "$1"
  ip netns add "$ns"
  ip link add "$l" type veth peer name eth0 netns "$ns"
  ip link set "$l" master "$BRIDGE" up
  ip -n "$ns" addr add "$2/24" dev eth0
  ip -n "$ns" link set lo up
  ip -n "$ns" link set eth0 up
  ip -n "$ns" route add default via "172.30.$CLUSTER_INDEX.1"
  for n in $(nodes); do
    [[ $n == "$1" ]] || ip -n "$ns" route add "$(pod_cidr "$n")" via "$(node_ip "$n")"
  done
}

uncable() {
  [[ ! -e /sys/class/net/$(link "$1") ]] || ip link del "$(link "$1")"
  [[ ! -e /run/netns/$(netns "$1") ]] || ip netns del "$(netns "$1")"
}

power_off() { # power_off nX: ends PID 1 of the node, and with it every process of the node
  local pid init parent
  if pid=$(pid_of "$1") && { read -r init <"$CLUSTER_DIR/$1/init.pid"; } 2>/dev/null \
    && { parent=$(sed -n 's/^PPid:\t//p' "/proc/$init/status"); } 2>/dev/null && [[ $parent == "$pid" ]]; then
    kill -KILL "$init"
  fi
  # The parent goes when the kernel has ended them all.
  local i; for ((i = 0; i < 100; i++)); do pid_of "$1" >/dev/null || break; sleep 0.05; done
  halt "$1" KILL
}

remove_cgroups() { # remove_cgroups PATH...: empty ones, deepest first
  local c p
  for c in $(cgroup_roots) /sys/fs/cgroup/unified; do for p in "$@"; do
    [[ -d $c/$p ]] && find "$c/$p" -depth -type d -exec rmdir {} \; 2>/dev/null || true
  done; done
}

# in_node nX COMMAND...: runs inside all of a node's namespaces
in_node() {
  local node=$1 pid; shift
  pid=$(<"$CLUSTER_DIR/$node/init.pid")
  nsenter --target "$pid" --mount --uts --ipc --net --pid -- "$@"
}

kubectl() { "$BIN/kubectl" --kubeconfig "$CLUSTER_DIR/admin.conf" "$@"; }

# --- what this machine has of this cluster, one line each: nothing before up.sh and nothing after down.sh

left() {
  local p
  ip -o link | awk -F': ' '{ sub(/@.*/, "", $2); print "link " $2 }' | grep -E " ($BRIDGE|$(link '[^ ]*'))$" || true
  ip route | grep -E " dev $BRIDGE( |$)" | sed 's/^/route /' || true
  find /run/netns -mindepth 1 -name "$(netns '*')" 2>/dev/null | sed 's/^/netns /' || true
  awk -v dir="$CLUSTER_DIR/" -v ns="/run/netns/$(netns '')" 'index($2, dir) == 1 || index($2, ns) == 1 { print "mount " $2 }' /proc/self/mounts
  find /sys/fs/cgroup -maxdepth 2 -name "$CGROUP" | sed 's/^/cgroup /'
  losetup -nlO NAME,BACK-FILE 2>/dev/null | grep -F " $CLUSTER_DIR/" | sed 's/^/loop /' || true
  [[ ! -e $CLUSTER_DIR ]] || echo "directory $CLUSTER_DIR"
  # Its daemons have the name in their environment; what runs in containers is in the cgroups above.
  for p in /proc/[0-9]*; do
    ((${p#/proc/} != BASHPID)) && { grep -qzx "CLUSTER_DIR=$CLUSTER_DIR" "$p/environ" && grep -q '^State:.[^Z]' "$p/status"; } 2>/dev/null || continue
    echo "process ${p#/proc/} $(tr '\0' ' ' <"$p/cmdline" | cut -c 1-120)"
  done
}
alone() { [[ $(compgen -G '/sys/class/net/mc-*') == "/sys/class/net/$BRIDGE" ]] || ! compgen -G '/sys/class/net/mc-*' >/dev/null; }
machine_wide() { # what all clusters of a machine have together
  mountpoint -q /run/netns && echo 'mount /run/netns'
  sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes \
    fs.inotify.max_user_instances | sed 's/^/sysctl /'
}
