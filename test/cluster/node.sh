#!/usr/bin/env bash
# One node: boot (from up.sh and faults.sh, on the host) and init (its PID 1).
#
# A node sees its own /run, /var/lib, /var/log and /mnt at the usual paths, so every node has the same configuration. Killing PID 1 ends
# every process of the node at once and drops its mounts; its disks stay.
. "$(dirname "$0")/lib.sh"
verb=$1 n=$2
D=$CLUSTER_DIR/$n

configure() {
  mkdir -p "$D"/{var-lib/{kubelet,containerd,cni/net.d,kube-proxy},log/pods,disks}
  local K=$D/var-lib/kubelet
  cp "$CLUSTER_DIR/pki/ca.crt" "$K/ca.crt"
  install -m 600 "$CLUSTER_DIR/pki/kubelet-$n.conf" "$K/kubeconfig"
  install -m 600 "$CLUSTER_DIR/pki/kubelet-$n-server.crt" "$K/server.crt"
  install -m 600 "$CLUSTER_DIR/pki/kubelet-$n-server.key" "$K/server.key"
  install -m 600 "$CLUSTER_DIR/pki/kube-proxy.conf" "$D/var-lib/kube-proxy/kubeconfig"
  : >"$K/resolv.conf" # pods that do not use the cluster's DNS have none

  cat >"$D/var-lib/cni/net.d/10-pods.conflist" <<Y
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "$(pod_cidr "$n")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
Y
  cat >"$D/var-lib/containerd.toml" <<Y
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  stream_server_address = "127.0.0.1"
  tolerate_missing_hugetlb_controller = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/var/lib/cni/net.d"
Y
  # Nothing here asks for CAP_SYS_RESOURCE, which build machines withhold: hence
  # restrict_oom_score_adj, oomScoreAdj and maxOpenFiles.
  # Every node believes it owns the whole machine; systemReserved keeps the
  # scheduler modest. Images cannot be pulled again, so they are never collected.
  cat >"$K/config.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /var/lib/kubelet/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: /var/lib/kubelet/server.crt
tlsPrivateKeyFile: /var/lib/kubelet/server.key
address: $(node_ip "$n")
healthzBindAddress: 127.0.0.1
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP/$n
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
maxOpenFiles: $(ulimit -Hn)
clusterDNS: [$DNS]
clusterDomain: cluster.local
resolvConf: /var/lib/kubelet/resolv.conf
volumePluginDir: /var/lib/kubelet/volume-plugins
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}
systemReserved: {memory: 1Gi}
nodeStatusUpdateFrequency: 4s
nodeLeaseDurationSeconds: 12
syncFrequency: 10s
maxPods: 60
Y
  cat >"$D/var-lib/kube-proxy/config.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: 10.$((100 + CLUSTER_INDEX)).0.0/16
hostnameOverride: $n
oomScoreAdj: 0
clientConnection: {kubeconfig: /var/lib/kube-proxy/kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {minSyncPeriod: 200ms}
Y
}

# A volume is a plain directory, or an ext4 of its own that can really fill.
make_volumes() {
  local i
  for ((i = 1; i <= VOLUMES; i++)); do
    mkdir -p "$D/disks/v$i"
    ((VOLUME_MIB)) || continue
    truncate -s "${VOLUME_MIB}M" "$D/disks/v$i/disk.img"
    mkfs.ext4 -q -m 0 -E nodiscard,root_owner=0:0 "$D/disks/v$i/disk.img"
  done
}

boot() { # on the host; returns when kubelet runs
  local c g f i
  [[ -s $D/var-lib/kubelet/config.yaml ]] || { configure; make_volumes; }
  # Images and what containers write over them: a gigabyte per node, made again when it is gone, and on a busy disk its removal takes a minute.
  mkdir -p "$D/var-lib/containerd"
  if ! mountpoint -q "$D/var-lib/containerd" && (($(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo) > 6 << 20)); then
    mount -t tmpfs -o mode=711,size=4g tmpfs "$D/var-lib/containerd"
  fi
  cable "$n" "$(node_ip "$n")"
  remove_cgroups "$CGROUP/$n" "$CGROUP/$n-daemons"
  for c in $(cgroup_roots); do
    for g in "$c/$CGROUP" "$c/$CGROUP/$n" "$c/$CGROUP/$n-daemons"; do
      mkdir -p "$g"
      # A version 1 cpuset starts empty; a version 2 group starts without controllers.
      if [[ $c == */cpuset ]]; then for f in cpuset.cpus cpuset.mems; do cat "$(dirname "$g")/$f" >"$g/$f"; done; fi
      if cgroup_v2; then sed 's/\([a-z]\+\)/+\1/g' "$(dirname "$g")/cgroup.controllers" >"$(dirname "$g")/cgroup.subtree_control"; fi
    done
    # A group counts as one process of the machine; with several nodes in it all pods would starve beside a compiler.
    if [[ -e $c/$CGROUP/cpu.shares ]]; then echo 8192 >"$c/$CGROUP/cpu.shares"; fi
    if [[ -e $c/$CGROUP/cpu.weight ]]; then echo 800 >"$c/$CGROUP/cpu.weight"; fi
  done
  rm -f "$D/init.pid" "$D/var-lib/booted"
  spawn "$n" nsenter "--net=/run/netns/$(netns "$n")" -- \
    unshare --mount --uts --ipc --pid --fork --kill-child --propagation private -- "$HERE/node.sh" init "$n"
  await 120 "boot of $n, see $D/log and $CLUSTER_DIR/log/$n.log" test -e "$D/var-lib/booted"
}

# What Debian programs are not installed lies over /usr; which iptables is meant is a link that dpkg would make.
mount_tools() {
  [[ $TOOLS == / ]] || mount -t overlay overlay -o "lowerdir=$TOOLS/usr:/usr" /usr
  mkdir -p /run/tools
  local p; for p in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -s "/usr/sbin/${p/tables/tables-nft}" "/run/tools/$p"
  done
  export PATH=/run/tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
}

init() { # PID 1 of the node
  local pid c v daemon
  read -r pid _ </proc/self/stat # /proc is still the host's, and so is this number
  for c in $(cgroup_roots); do echo 0 >"$c/$CGROUP/$n-daemons/cgroup.procs"; done
  hostname "$n"

  mount -t proc proc /proc
  mkdir -p "$D/cgroup" # /sys of this network namespace, with the cgroups put back
  mount --rbind /sys/fs/cgroup "$D/cgroup"
  mount -t sysfs sysfs /sys
  mount --rbind "$D/cgroup" /sys/fs/cgroup
  umount -R -l "$D/cgroup"
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir /run/bin /run/images /run/lock
  mount_tools
  mount --bind "$BIN" /run/bin
  mount --bind "$IMAGES" /run/images
  mount -t tmpfs -o mode=755 tmpfs /mnt
  for v in "$D"/disks/v*; do
    mkdir "/mnt/${v##*/}"
    if [[ -s $v/disk.img ]]; then mount -o loop "$v/disk.img" "/mnt/${v##*/}"; else mount --bind "$v" "/mnt/${v##*/}"; fi
  done
  echo "$pid" >"$D/init.pid"
  mount --bind "$D/log" /var/log
  mount --rbind "$D/var-lib" /var/lib # hides CLUSTER_DIR; nothing below needs it
  mount --make-rshared /
  ip link set lo up
  sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.bridge.bridge-nf-call-iptables=1

  daemon containerd
  await 60 containerd test -S /run/containerd/containerd.sock
  await 60 containerd ctr version
  if [[ ! -e /var/lib/images-loaded ]]; then
    for c in /run/images/*.tar; do ctr -n k8s.io images import "$c" >/dev/null; done
    touch /var/lib/images-loaded
  fi
  daemon kubelet
  daemon kube-proxy
  touch /var/lib/booted

  # Orders from faults.sh: the name of a daemon to start. Orphans are reaped by
  # the shell between reads.
  mkfifo /run/start; exec 5<>/run/start
  while true; do read -r -t 60 -u 5 daemon && daemon "$daemon"; done
}

daemon() { # inside the node
  case $1 in
    containerd) set -- containerd containerd --config /var/lib/containerd.toml ;;
    kubelet) set -- kubelet /run/bin/kubelet --config /var/lib/kubelet/config.yaml --kubeconfig /var/lib/kubelet/kubeconfig \
      --hostname-override "$n" --node-ip "$(node_ip "$n")" \
      --node-labels "topology.kubernetes.io/region=test,topology.kubernetes.io/zone=$(zone "$n")" ;;
    kube-proxy) set -- kube-proxy /run/bin/kube-proxy --config /var/lib/kube-proxy/config.yaml ;;
  esac
  local name=$1; shift
  setsid "$@" >>"/var/log/$name.log" 2>&1 </dev/null 5<&- &
  echo $! >"/run/$name.pid"
}

"$verb"
