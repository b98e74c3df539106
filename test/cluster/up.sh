#!/usr/bin/env bash
# Brings the node level of the test cluster up and returns when it is ready. Again: repairs what is missing, touches nothing else.
#
#   up.sh [--nodes N] [--zones a,b,...] [--volumes N] [--volume-size M]
#       N nodes (default 3), each a machine of its own as far as Linux allows: network, mount, pid, uts and ipc namespace, containerd,
#       kubelet, kube-proxy. Node i is in the i-th zone (cyclic; default one zone per node: site-a, site-b, ...) and has N (default 8)
#       local volumes; with --volume-size each is an ext4 of that many MiB, so it can really fill.
#
# Needs root. Refuses to start half: what is missing is named. A first start that fails removes what it made, but for the logs.
. "$(dirname "$0")/lib.sh"
T0=$EPOCHREALTIME

# A first start that fails leaves its logs and nothing else.
first=; [[ ${SERVER:-} ]] || first=1
trap 'rc=$?; trap - EXIT; if ((rc)) && [[ $first && -e $CLUSTER_DIR/cluster.conf ]]; then "$HERE/down.sh" --keep >&2; fi; exit $rc' EXIT
trap 'exit 130' INT TERM HUP

if [[ -n ${SERVER:-} ]]; then # cluster.conf was there
  [[ $# == 0 || $* == "$OPTIONS" ]] || die "already there with options '$OPTIONS'; down.sh first"
  set -- $OPTIONS
fi
options=$* count=3 zones= volumes=8 volume_size=0
while [[ $# -gt 0 ]]; do
  case $1 in
    --nodes) count=$2 ;; --zones) zones=$2 ;; --volumes) volumes=$2 ;; --volume-size) volume_size=$2 ;;
    *) die "unknown option '$1'" ;;
  esac
  shift 2
done
[[ $count -le 9 ]] || die "at most 9 nodes"
[[ $EUID == 0 ]] || die "nodes need root; what needs none is the API level (startApiServer, test/api)"

# --- programs

missing=
for p in ip tc nsenter unshare mkfs.ext4 flock node; do command -v "$p" >/dev/null || missing+=" $p"; done
[[ -z $missing ]] || die "missing:$missing. Debian: apt-get install iproute2 util-linux e2fsprogs; Node.js comes with make setup"
[[ $(node -p 'parseInt(process.versions.node)') -ge 24 ]] || die "the node on PATH is $(node --version); use make cluster-up, or node_modules/.bin first on PATH"
[[ ${BIN:-} ]] || BIN=$("$HERE/build.sh" all)
[[ ${TOOLS:-} ]] || TOOLS=$(node "$HERE/node-tools.ts")

# --- decisions, made once and kept

mkdir -p "$CLUSTER_DIR"/{run,log}
free_index() { local i; for ((i = 0; i < 50; i++)); do ip -4 addr show | grep -q "inet 172\.30\.$i\." || { echo "$i"; return; }; done; die "no free subnet"; }
site() { printf "site-\\x$(printf %x $((96 + $1)))"; }

decide() {
  local i n; i=$(free_index)
  [[ $zones ]] || for ((n = 1; n <= count; n++)); do zones+="$(site $n),"; done
  echo "SERVER=172.30.$i.2 SERVER_PORT=6443 ETCD_PORT=2379 ETCD_PEER_PORT=2380"
  echo "CLUSTER_ZONES='${zones//,/ }' VOLUMES=$volumes VOLUME_MIB=$volume_size"
  # Nodes are 172.30.i.11 and on, their pods 10.(100+i).1.0/24 and on.
  echo "CLUSTER_NODES=$count CLUSTER_INDEX=$i SERVICE_CIDR=10.$((150 + i)).0.0/16 SERVICE_FIRST=10.$((150 + i)).0.1 DNS=10.$((150 + i)).0.10"
  echo "OPTIONS='$options' BIN='$BIN' TOOLS='$TOOLS'"
}

exec 7>"$LOCK"; flock 7 # two clusters must not choose one subnet
if [[ -z ${SERVER:-} ]]; then
  decide >"$CLUSTER_DIR/.conf"; mv "$CLUSTER_DIR/.conf" "$CLUSTER_DIR/cluster.conf"
  . "$CLUSTER_DIR/cluster.conf"
fi
if [[ ! -e /sys/class/net/$BRIDGE ]]; then # this takes the subnet
  # kubelet sets some of these for the whole machine; the last down.sh puts them back.
  [[ -e $SYSCTLS ]] || sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops \
    kernel.keys.root_maxkeys kernel.keys.root_maxbytes fs.inotify.max_user_instances | sed 's/ = /=/' >"$SYSCTLS"
  ip link add "$BRIDGE" type bridge
  ip addr add "172.30.$CLUSTER_INDEX.1/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  # This machine reaches pods directly, and services through n1.
  for n in $(nodes); do ip route add "$(pod_cidr "$n")" via "$(node_ip "$n")"; done
  ip route add "$SERVICE_CIDR" via "$(node_ip n1)"
fi
exec 7>&-

node "$HERE/node-keys.ts" "$CLUSTER_DIR" "$SERVER" "$SERVER_PORT" "$SERVICE_FIRST" $(for n in $(nodes); do echo "$n=$(node_ip "$n")"; done)
P=$CLUSTER_DIR/pki

sysctl -qw fs.inotify.max_user_instances=8192
[[ -e /run/netns/$(netns cp) ]] || cable cp "$SERVER"
in_cp=(nsenter "--net=/run/netns/$(netns cp)" --)

# --- control plane

running() { pid_of "$1" >/dev/null; }
running etcd || spawn etcd "${in_cp[@]}" "$BIN/etcd" --name=etcd --data-dir="$CLUSTER_DIR/etcd" --log-level=warn --unsafe-no-fsync \
  --listen-client-urls="http://127.0.0.1:$ETCD_PORT" --advertise-client-urls="http://127.0.0.1:$ETCD_PORT" \
  --listen-peer-urls="http://127.0.0.1:$ETCD_PEER_PORT" --initial-advertise-peer-urls="http://127.0.0.1:$ETCD_PEER_PORT" \
  --initial-cluster="etcd=http://127.0.0.1:$ETCD_PEER_PORT"

cat >"$CLUSTER_DIR/audit.yaml" <<'Y'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: None, resources: [{group: coordination.k8s.io}, {resources: [events]}]}
  - {level: None, verbs: [get, list, watch]}
  - {level: Metadata}
Y
# Webhooks are dialled by pod address (aggregator routing), so the control
# plane needs no kube-proxy. Frequent compaction makes stale watches meet 410.
running kube-apiserver || spawn kube-apiserver "${in_cp[@]}" "$BIN/kube-apiserver" --etcd-servers="http://127.0.0.1:$ETCD_PORT" \
  --bind-address="$SERVER" --advertise-address="$SERVER" --secure-port="$SERVER_PORT" \
  --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" --client-ca-file="$P/ca.crt" \
  --kubelet-client-certificate="$P/apiserver-kubelet-client.crt" --kubelet-client-key="$P/apiserver-kubelet-client.key" \
  --kubelet-certificate-authority="$P/ca.crt" --kubelet-preferred-address-types=InternalIP \
  --service-account-key-file="$P/sa.pub" --service-account-signing-key-file="$P/sa.key" \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-cluster-ip-range="$SERVICE_CIDR" \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged --enable-aggregator-routing \
  --default-not-ready-toleration-seconds="${CLUSTER_TOLERATION:-15}" --default-unreachable-toleration-seconds="${CLUSTER_TOLERATION:-15}" \
  --etcd-compaction-interval="${CLUSTER_COMPACTION:-30s}" --audit-policy-file="$CLUSTER_DIR/audit.yaml" --audit-log-path="$CLUSTER_DIR/log/audit.log"
await 90 "API server ready" kubectl get --raw /readyz
say "API server ready"

running kube-controller-manager || spawn kube-controller-manager "${in_cp[@]}" "$BIN/kube-controller-manager" \
  --kubeconfig="$P/kube-controller-manager.conf" --leader-elect=false \
  --secure-port=0 --use-service-account-credentials \
  --service-account-private-key-file="$P/sa.key" --root-ca-file="$P/ca.crt" \
  --node-monitor-period=2s --node-monitor-grace-period=16s
running kube-scheduler || spawn kube-scheduler "${in_cp[@]}" "$BIN/kube-scheduler" \
  --kubeconfig="$P/kube-scheduler.conf" --leader-elect=false \
  --secure-port=0

boots=() # nodes boot while the controllers start
IMAGES=$("$HERE/images.sh"); export IMAGES
say "images packed"
for n in $(nodes); do running "$n" || { "$HERE/node.sh" boot "$n" & boots+=($!); }; done
await 60 "default service account" kubectl get serviceaccount default
kubectl apply --server-side --field-manager=cluster -f "$HERE/manifests/base.yaml" >/dev/null

# --- nodes

for b in "${boots[@]}"; do wait "$b"; done
say "nodes booted"

volume() { # volume NODE I
  cat <<Y
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: $1-v$2}
spec:
  capacity: {storage: $( ((VOLUME_MIB)) && echo "${VOLUME_MIB}Mi" || echo 1Gi)}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  local: {path: /mnt/v$2}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$1]}]}]}}
Y
}
if [[ ! -e $CLUSTER_DIR/run/volumes ]]; then
  for n in $(nodes); do for ((i = 1; i <= VOLUMES; i++)); do volume "$n" "$i"; done; done | kubectl apply --server-side --field-manager=cluster -f - >/dev/null
  touch "$CLUSTER_DIR/run/volumes"
fi
sed "s/@DNS@/$DNS/" "$HERE/manifests/coredns.yaml" | kubectl apply --server-side --field-manager=cluster -f - >/dev/null
for n in $(nodes); do await 90 "node $n registered" kubectl get node "$n"; done
kubectl wait --for=condition=Ready node --all --timeout=90s >/dev/null
say "nodes ready"
kubectl -n kube-system rollout status deployment/coredns --timeout=120s >/dev/null
say "up; to use it:"
echo "export KUBECONFIG=$CLUSTER_DIR/admin.conf PATH=$BIN:\$PATH"
