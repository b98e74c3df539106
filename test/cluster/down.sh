#!/usr/bin/env bash
# Ends a cluster and removes everything it made (processes, mounts, network namespaces, cgroups, sysctls), whatever state it is in.
#   down.sh [--keep]     --keep leaves logs and disks in CLUSTER_DIR.kept
. "$(dirname "$0")/lib.sh"
[[ -e $CLUSTER_DIR/cluster.conf ]] || { echo "no cluster in $CLUSTER_DIR"; exit; }

# All at once: the end of a node is the kernel's work, and a loaded machine takes its time for each.
ends=()
for n in $(nodes); do power_off "$n" & ends+=($!); done
for p in kube-scheduler kube-controller-manager kube-apiserver etcd; do halt "$p" "${CLUSTER_SIGNAL:-KILL}" & ends+=($!); done
for e in "${ends[@]}"; do wait "$e"; done
for n in $(nodes); do ! mountpoint -q "$CLUSTER_DIR/$n/var-lib/containerd" || umount "$CLUSTER_DIR/$n/var-lib/containerd"; done

if [[ ${CLUSTER_NODES:-0} -gt 0 ]]; then
  for n in cp $(nodes); do uncable "$n"; done
  exec 7>"$LOCK"; flock 7
  [[ ! -e /sys/class/net/$BRIDGE ]] || ip link del "$BRIDGE"
  if [[ -s $SYSCTLS ]] && ! compgen -G '/sys/class/net/mc-*' >/dev/null; then sysctl -qp "$SYSCTLS"; rm "$SYSCTLS"; fi
  # Nobody else may have put a namespace there since.
  if [[ -e $NETNS && -z $(ls -A /run/netns) ]]; then umount /run/netns; rmdir /run/netns; rm "$NETNS"; fi
  exec 7>&-
  for ((i = 0; i < 50; i++)); do # the kernel empties a dead namespace's cgroups a moment later
    remove_cgroups "$CGROUP"
    compgen -G "/sys/fs/cgroup/*/$CGROUP" >/dev/null || [[ -d /sys/fs/cgroup/$CGROUP ]] || break
    sleep 0.1
  done
fi
if [[ ${1:-} == --keep ]]; then
  rm -rf --one-file-system "$CLUSTER_DIR.kept"
  mv "$CLUSTER_DIR" "$CLUSTER_DIR.kept"
  echo "logs: $CLUSTER_DIR.kept/log, of a node $CLUSTER_DIR.kept/nX/log"
else
  rm -rf --one-file-system "$CLUSTER_DIR"
fi
