#!/usr/bin/env bash
# MailCluster on the cluster that is up (up.sh --zones west-1,west-2,central-1): image, operator by Helm, two mailbox servers, examples/two-site-dag.yaml;
# waits until it is Ready and sends mail through its Service. Says how long each took. Again: an upgrade.
#   install.sh [values for the operator's chart, as for helm: --set replicas=2 ...]
. "$(dirname "$0")/lib.sh"
[[ ${SERVER:-} ]] || die "no cluster: up.sh --zones west-1,west-2,central-1"
T0=$EPOCHREALTIME
ROOT=$(cd "$HERE/../.." && pwd)
IMAGE=localhost/mailcluster:cluster
export KUBECONFIG=$CLUSTER_DIR/admin.conf PATH=$BIN:$PATH
export HELM_CACHE_HOME=$CLUSTER_DIR/helm HELM_CONFIG_HOME=$CLUSTER_DIR/helm HELM_DATA_HOME=$CLUSTER_DIR/helm

mkdir -p "$CLUSTER_DIR/images"
made=$(node "$ROOT/charts/image/main.ts" --out "$CLUSTER_DIR/images/mailcluster.tar" --reference "$IMAGE")
say "image made: ${made#*$'\n'}"
"$HERE/images.sh" load "$CLUSTER_DIR/images/mailcluster.tar"
# A tag of its own, so that another image is another pod; that of the mailbox servers stays.
tag=$(sed -n 's/.* sha256:\(.\{12\}\).*/\1/p' <<<"$made")
for n in $(nodes); do in_node "$n" ctr -n k8s.io images tag --force "$IMAGE" "${IMAGE%:*}:$tag" >/dev/null; done
say "image in every node, tag $tag"

kubectl create namespace mailcluster-system --dry-run=client -o yaml | kubectl apply -f - >/dev/null
kubectl label --overwrite namespace mailcluster-system pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted >/dev/null
helm upgrade --install mailcluster-operator "$ROOT/charts/mailcluster-operator" -n mailcluster-system --wait --timeout 120s \
  --set "image.tag=$tag" --set image.pullPolicy=Never "$@" >/dev/null
say "operator Ready"
helm test mailcluster-operator -n mailcluster-system --timeout 60s >/dev/null
say "helm test passed"

kubectl apply -f "$HERE/manifests/stores.yaml" >/dev/null
for s in sea pdx; do kubectl rollout status -n mail "statefulset/store-$s" --timeout=60s >/dev/null; done
say "mailbox servers Ready"
node "$HERE/two-sites.ts" | kubectl apply -f - >/dev/null
t=$EPOCHREALTIME
kubectl wait --for=condition=Ready mc/contoso -n mail --timeout="${READY_TIMEOUT:-180s}" >/dev/null
say "MailCluster Ready, $(since "$t") s after kubectl apply"

service=$(kubectl get service contoso-smtp -n mail -o 'jsonpath={.spec.clusterIP}')
sent=$(node "$HERE/send.ts" "$service:25" 20 ann@contoso.com) || die "not accepted: $sent"
prefix=${sent%%$'\n'*}
# No shell in the image: Node counts.
delivered() { # in one of the two stores
  kubectl exec -n mail store-sea-0 -- node -e '
    const fs = require("node:fs"), prefix = process.argv[1];
    const texts = fs.readdirSync("/var/mail/box", { recursive: true, withFileTypes: true }).filter((e) => e.isFile())
      .map((e) => fs.readFileSync(`${e.parentPath}/${e.name}`, "latin1"));
    console.log(new Set(texts.flatMap((text) => new RegExp(`X-Ledger-Id: (${prefix}\\d+)\r?\n`).exec(text)?.[1] ?? [])).size)' "$1"
}
all_there() { [[ $(delivered "$prefix") == 20 ]]; }
await 60 "20 messages in the mailbox of seattle" all_there
say "20 messages accepted and delivered"
kubectl get mc,mbdb,pods -n mail
