#!/usr/bin/env bash
# Proves the cluster by use; prints one line per proof and "N passed, N failed".
#   smoke.sh      a cluster of three nodes is expected (up.sh)
. "$(dirname "$0")/lib.sh"
T0=$EPOCHREALTIME
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT
passed=0 failed=0

k() { kubectl "$@"; }
proof() { # proof TEXT COMMAND...
  local text=$1 t=$EPOCHREALTIME; shift
  ( "$@" ) >"$W/out" 2>&1 & # in the background, or errexit would not hold inside
  if wait $!; then passed=$((passed + 1)); printf 'ok    %6.1fs  %s\n' "$(since "$t")" "$text"
  else failed=$((failed + 1)); printf 'FAIL  %6.1fs  %s\n' "$(since "$t")" "$text"; sed 's/^/      | /' "$W/out" | tail -15; fi
}
eventually() { # eventually SECONDS COMMAND...
  local limit=$1 t=$SECONDS; shift
  until "$@" >"$W/last" 2>&1; do ((SECONDS - t < limit)) || { echo "not within $limit s: $*"; tail -5 "$W/last"; return 1; }; sleep 0.3; done
}
is() { local want=$1 got; shift; got=$("$@") || return 1; [[ $got == "$want" ]] || { echo "want '$want', got '$got' from: $*"; return 1; }; }
refused() { local pattern=$1 out; shift; if out=$("$@" 2>&1); then echo "was accepted: $*"; return 1; fi; grep -qE "$pattern" <<<"$out" || { echo "$out"; return 1; }; }

# --- API

crd() {
  k apply --server-side -f "$HERE/manifests/smoke-crd.yaml"
  k wait --for=condition=Established crd/mailprobes.smoke.test --timeout=30s
  eventually 20 k get mailprobes
}
cel() {
  refused 'minCopies must not exceed replicas' k apply -f - <<<'{"apiVersion":"smoke.test/v1","kind":"MailProbe","metadata":{"name":"bad","namespace":"default"},"spec":{"replicas":1,"minCopies":2}}'
  k apply --server-side --field-manager=one -f - <<<'{"apiVersion":"smoke.test/v1","kind":"MailProbe","metadata":{"name":"good","namespace":"default"},"spec":{"replicas":3,"minCopies":2}}'
  refused 'replicas may not shrink' k patch mailprobe good --type=merge -p '{"spec":{"replicas":2}}'
}
ssa() {
  refused 'conflict' k apply --server-side --field-manager=two -f - <<<'{"apiVersion":"smoke.test/v1","kind":"MailProbe","metadata":{"name":"good","namespace":"default"},"spec":{"replicas":4}}'
  k apply --server-side --field-manager=two --subresource=status -f - <<<'{"apiVersion":"smoke.test/v1","kind":"MailProbe","metadata":{"name":"good","namespace":"default"},"status":{"ready":3}}'
  is 3 k get mailprobe good -o 'jsonpath={.status.ready}'
  k patch mailprobe good --type=merge -p '{"status":{"ready":9}}' # the main resource ignores status
  is 3 k get mailprobe good -o 'jsonpath={.status.ready}'
  is 'one two' k get mailprobe good --show-managed-fields -o 'jsonpath={.metadata.managedFields[?(@.operation=="Apply")].manager}'
}
one_copy() { k apply --dry-run=server -f - <<<'{"apiVersion":"smoke.test/v1","kind":"MailProbe","metadata":{"name":"p","namespace":"default"},"spec":{"replicas":3,"minCopies":1}}'; }
policy() {
  k apply -f "$HERE/manifests/smoke-policy.yaml"
  eventually 20 refused 'keep two copies' one_copy
  k delete -f "$HERE/manifests/smoke-policy.yaml"
}
psa() {
  k create namespace smoke --dry-run=client -o yaml | k apply -f -
  k label --overwrite namespace smoke pod-security.kubernetes.io/enforce=restricted
  eventually 10 k -n smoke get serviceaccount default
  refused 'violates PodSecurity' k -n smoke run bad --image=localhost/busybox:1 --privileged
}
gc() {
  k -n smoke create configmap owner
  local uid; uid=$(k -n smoke get configmap owner -o 'jsonpath={.metadata.uid}')
  k -n smoke apply -f - <<<'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"owned","ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"owner","uid":"'"$uid"'"}]}}'
  k -n smoke delete configmap owner
  eventually 30 refused NotFound k -n smoke get configmap owned
}
chart() {
  HELM_CONFIG_HOME=$W/helm HELM_CACHE_HOME=$W/helm HELM_DATA_HOME=$W/helm "$BIN/helm" --kubeconfig "$CLUSTER_DIR/admin.conf" -n smoke upgrade --install hello "$HERE/manifests/smoke-chart" --set greeting=hej
  is hej k -n smoke get configmap hello -o 'jsonpath={.data.greeting}'
  HELM_CONFIG_HOME=$W/helm HELM_CACHE_HOME=$W/helm HELM_DATA_HOME=$W/helm "$BIN/helm" --kubeconfig "$CLUSTER_DIR/admin.conf" -n smoke uninstall hello
}

# --- nodes

ready_nodes() { k get nodes --no-headers | grep -cw Ready; }
in_shell() { k -n smoke exec shell -- "$@"; }
of_pod() { k -n smoke get pod "$1" -o "jsonpath={$2}"; } # of_pod NAME PATH
web_pod() { k -n smoke get pod -l app=web -o "jsonpath={.items[0]$1}"; }
fetch() { local page; exec 6<>"/dev/tcp/$1/$2"; printf 'GET / HTTP/1.0\r\n\r\n' >&6; page=$(timeout 5 cat <&6); exec 6>&-; grep -q web- <<<"$page"; }
reborn() { local uid; uid=$(of_pod "$1" .metadata.uid) && [[ -n $uid && $uid != "$2" ]]; } # reborn POD OLD_UID

labels() {
  is "$(nodes | wc -l)" ready_nodes
  local n; for n in $(nodes); do is "$(zone "$n")" k get node "$n" -o 'jsonpath={.metadata.labels.topology\.kubernetes\.io/zone}'; done
}
deployment() {
  k -n smoke apply -f "$HERE/manifests/smoke-web.yaml"
  k -n smoke rollout status deployment/web --timeout=90s
  k -n smoke wait --for=condition=Ready pod/shell --timeout=60s
}
dns() {
  local ip; ip=$(k -n smoke get service web -o 'jsonpath={.spec.clusterIP}')
  eventually 30 in_shell nslookup -type=a web.smoke.svc.cluster.local
  grep -q "Address: $ip" "$W/last"
  refused NXDOMAIN in_shell nslookup -type=a mail.example.org
}
service() {
  local i; for ((i = 0; i < 12; i++)); do in_shell sh -c 'printf "GET / HTTP/1.0\r\n\r\n" | nc -w 5 web 80 | tail -1'; done | sort | uniq -c | tee "$W/spread"
  [[ $(wc -l <"$W/spread") -ge 2 ]]
}
node24() { is 24 k -n smoke exec deploy/web -- node -p 'process.versions.node.split(".")[0]'; }
logs() { k -n smoke logs "$(web_pod .metadata.name)" | grep -q listening; }
forward() {
  "$BIN/kubectl" --kubeconfig "$CLUSTER_DIR/admin.conf" -n smoke port-forward service/web :80 >"$W/forward" 2>&1 &
  local pid=$! rc=0
  { eventually 20 grep -q 'Forwarding from 127' "$W/forward" && fetch 127.0.0.1 "$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\).*/\1/p' "$W/forward")"; } || rc=1
  kill "$pid"; return $rc
}
reach_both() {
  fetch "$(web_pod .status.podIP)" 8080
  fetch "$(k -n smoke get service web -o 'jsonpath={.spec.clusterIP}')" 80
}
stateful() {
  k -n smoke apply -f "$HERE/manifests/smoke-db.yaml"
  k -n smoke rollout status statefulset/db --timeout=120s
  [[ $(for p in db-0 db-1 db-2; do of_pod $p .spec.nodeName; echo; done | sort -u | wc -l) == 3 ]]
  is '65532 65532' k -n smoke exec db-0 -- stat -c '%u %g' /data/mine
  refused 'Read-only' k -n smoke exec db-0 -- touch /usr/x
}
lives() { k -n smoke exec "$1" -- wc -l /data/mine | awk '{ print $1 }'; }
survives() {
  local uid; uid=$(of_pod db-0 .metadata.uid); is 1 lives db-0
  k -n smoke delete pod db-0 --wait=false
  eventually 60 reborn db-0 "$uid"
  k -n smoke wait --for=condition=Ready pod/db-0 --timeout=60s
  is 2 lives db-0
}
allowed() { k -n smoke get pdb db -o 'jsonpath={.status.disruptionsAllowed}'; }
budget() { # all three needed: the drain must not get through; two needed: it must
  local n drain; n=$(of_pod db-1 .spec.nodeName)
  drain=(k drain "$n" --ignore-daemonsets --delete-emptydir-data --pod-selector=app=db)
  k -n smoke patch pdb db --type=merge -p '{"spec":{"minAvailable":3}}'
  eventually 20 is 0 allowed
  refused 'disruption budget' "${drain[@]}" --timeout=6s
  k -n smoke patch pdb db --type=merge -p '{"spec":{"minAvailable":2}}'
  eventually 20 is 1 allowed
  "${drain[@]}" --timeout=60s
  k uncordon "$n"
  k -n smoke rollout status statefulset/db --timeout=90s
}
partition() {
  local a b talk; a=$(of_pod db-0 .spec.nodeName) b=$(of_pod db-1 .spec.nodeName)
  talk=(k -n smoke exec db-0 -- nc -w 2 "$(of_pod db-1 .status.podIP)" 7000)
  eventually 20 "${talk[@]}"
  "$HERE/faults.sh" cut "$a" "$b"
  refused . "${talk[@]}"
  is "$(nodes | wc -l)" ready_nodes # the API still hears both
  "$HERE/faults.sh" heal
  eventually 20 "${talk[@]}"
}
not_ready() { k get node "$1" --no-headers | grep -qw NotReady; }
lost() { # dead node: NotReady, out of service, pod gone; its volume keeps it from moving
  local n uid; n=$(of_pod db-2 .spec.nodeName) uid=$(of_pod db-2 .metadata.uid)
  echo "$n" >"$W/lost"
  "$HERE/faults.sh" kill "$n"
  eventually 60 not_ready "$n"
  k taint node "$n" node.kubernetes.io/out-of-service=nodeshutdown:NoExecute
  eventually 90 reborn db-2 "$uid"
  is Pending of_pod db-2 .status.phase
}
returns() {
  local n; n=$(<"$W/lost")
  "$HERE/faults.sh" boot "$n"
  k taint node "$n" node.kubernetes.io/out-of-service-
  k wait --for=condition=Ready "node/$n" --timeout=60s
  k -n smoke rollout status statefulset/db --timeout=120s
  [[ $(lives db-2) -ge 2 ]]
}
released() { k get pv --no-headers | awk '/Released/ { n++ } END { print n + 0 }'; }
clean() {
  k delete namespace smoke --timeout=90s
  eventually 30 is 3 released
  "$HERE/faults.sh" recycle
  eventually 20 is 0 released
}
deaf_node() { # cut from the API server alone: NotReady, yet its pods serve
  local n ip; n=$(web_pod .spec.nodeName) ip=$(web_pod .status.podIP)
  "$HERE/faults.sh" cut cp "$n"
  eventually 60 not_ready "$n"
  fetch "$ip" 8080
  "$HERE/faults.sh" heal
  k wait --for=condition=Ready "node/$n" --timeout=30s
}
stopped_kubelet() { # a dead kubelet leaves containers running; a new one adopts them
  local pod n id; pod=$(web_pod .metadata.name) n=$(web_pod .spec.nodeName)
  k -n smoke rollout status deployment/web --timeout=60s
  id=$(of_pod "$pod" '.status.containerStatuses[0].containerID')
  "$HERE/faults.sh" stop "$n" kubelet
  fetch "$(of_pod "$pod" .status.podIP)" 8080
  "$HERE/faults.sh" start "$n" kubelet
  eventually 30 k -n smoke exec "$pod" -- true
  is "$id" of_pod "$pod" '.status.containerStatuses[0].containerID'
}

k get --raw /readyz >/dev/null || die "no cluster in $CLUSTER_DIR"
proof "CRD established" crd
proof "CEL: bad object refused, transition rule holds" cel
proof "server-side apply: conflict, field managers, status subresource" ssa
proof "ValidatingAdmissionPolicy refuses" policy
proof "Pod Security 'restricted' refuses a privileged pod" psa
proof "garbage collection follows owners" gc
proof "helm installs and removes a chart" chart
proof "every node Ready, in its zone" labels
proof "Deployment of Node.js 24 servers, restricted" deployment
proof "DNS resolves the service in a pod" dns
proof "service balances over nodes through kube-proxy" service
proof "kubectl exec; the container runs Node.js 24" node24
proof "kubectl logs" logs
proof "kubectl port-forward" forward
proof "pod and service reached from this machine by their addresses" reach_both
proof "StatefulSet on local volumes: spread, uid 65532 writes by fsGroup, root file system read-only" stateful
proof "data survives the pod" survives
proof "drain honours the disruption budget" budget
proof "partition between two nodes, and heal" partition
proof "node cut from the API server: NotReady, pods serve on" deaf_node
proof "kubelet killed and restarted: same containers" stopped_kubelet
proof "dead node: NotReady, out-of-service, pod removed, volume holds its place" lost
proof "node returns with its data" returns
proof "namespace deleted, volumes recycled" clean
k delete -f "$HERE/manifests/smoke-crd.yaml" >/dev/null 2>&1 || true
printf '%d passed, %d failed, %.0f s\n' "$passed" "$failed" "$(since "$T0")"
((failed == 0))
