#!/usr/bin/env bash
# The programs of the test cluster, built from the Go modules pinned in programs/ into a cache outside the checkout.
#
#   build.sh [api|node|all]   default all; what is there already is left alone. Prints the directory.
#   build.sh cert-manager     the same for the controllers of cert-manager, a module and a directory of their own (cert-manager/); not part of all
#   build.sh --stage api      the same for test/run.ts: prints counts, and what cannot be built here is SKIPPED with what is missing
#   build.sh --where [WHAT]   prints the directory, builds nothing
#
# Owns $XDG_CACHE_HOME/mailcluster/programs-KEY (without XDG_CACHE_HOME: ~/.cache/...). KEY is a function of go.mod, go.sum, our own Go
# files, the flags and the Go version, so checkouts share what is equal and never use what is not. Without a Go that can build, the
# newest directory made of the same files and flags will do. A program appears there whole, by rename, or not at all; one build at a time
# per cache (a lock). Directories unused for 30 days are removed. CLUSTER_BIN names a directory of built programs instead.
# Static (CGO_ENABLED=0, so no C compiler), path-independent, without debug data: that costs a seventh of the time and is stripped anyway.
# Exits 3 when this machine lacks something (Go, network, space), 1 when the build itself is broken.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly GO_AT_LEAST=1.25 SPACE_MIB=5000 UNUSED_DAYS=30
readonly CERT_MANAGER=github.com/cert-manager/cert-manager
readonly API=(etcd kube-apiserver kube-controller-manager kube-scheduler kubectl helm) NODE=(kubelet kube-proxy coredns pause)

stage= where= module=programs
lacks() { # what this machine has not; everything else that goes wrong is a failure
  if [[ $stage ]]; then
    printf 'SKIPPED 1 in test/cluster/build.sh: %s\n0 passed, 0 failed, 1 skipped\n' "$*"
    exit 0
  fi
  printf 'build.sh: %s\n' "$*" >&2
  exit 3
}
passed() {
  if [[ $stage ]]; then printf '1 passed, 0 failed, 0 skipped\n'; else echo "$bin"; fi
  exit 0
}
older() { [[ $1 != "$2" && $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }
since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

case ${1:-} in
  --stage) stage=1; shift ;;
  --where) where=1; shift ;;
esac
what=${1:-all}
case $what in
  api) programs=("${API[@]}") ;;
  node) programs=("${NODE[@]}") ;;
  all) programs=("${API[@]}" "${NODE[@]}") ;;
  cert-manager) programs=(cert-manager) module=cert-manager ;;
  *) printf 'build.sh: api, node, all, cert-manager or --where, not %q\n' "$what" >&2; exit 1 ;;
esac

if [[ ${CLUSTER_BIN:-} ]]; then
  bin=$CLUSTER_BIN
  [[ $where ]] || for p in "${programs[@]}"; do [[ -x $bin/$p ]] || lacks "CLUSTER_BIN has no $p"; done
  passed
fi

# --- the sources, the compiler, and the key

export HOME=${HOME:-$(getent passwd "$EUID" | cut -d: -f6)}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mailcluster
cd "$HERE/$module"
export CGO_ENABLED=0 GOMEMLIMIT=${GOMEMLIMIT:-6GiB} GOWORK=off
export GOFLAGS="-mod=readonly -trimpath -buildvcs=false"
required() { sed -n "s|^\t$1 \(v[0-9.]*\)\$|\1|p" go.mod; }
link="-s -w"
if [[ $module == cert-manager ]]; then
  sources=(main.go) link+=" -X $CERT_MANAGER/pkg/util.AppVersion=$(required "$CERT_MANAGER")"
else
  sources=(tools.go */main.go) version=$(required k8s.io/kubernetes)
  minor=${version#v1.}
  for v in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    link+=" -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*} -X $v.gitTreeState=clean"
  done
fi
flags=(-gcflags=all=-dwarf=false -ldflags "$link")
key_of() { { echo "$@" "$GOFLAGS" "${flags[*]}"; sha256sum go.mod go.sum "${sources[@]}"; } | sha256sum | cut -c1-16; }
# In each directory of the cache: what it was made from, whichever Go made it.
readonly MADE_FROM=.made-from
made_from=$(key_of "$MACHTYPE")
have() { local p; for p in "${programs[@]}"; do [[ -x $1/$p ]] || return 1; done; }
cached_or_lacks() { # of the same sources by some other Go, else: what is missing
  local found
  [[ ! $where || $what != all ]] || programs=("${API[@]}")
  while read -r found; do
    bin=${found%/"$MADE_FROM"}
    ! have "$bin" || { touch "$bin"; passed; }
  done < <(grep -lsxF "$made_from" "$cache"/programs-*/"$MADE_FROM" | xargs -r ls -t)
  lacks "$@"
}

command -v go >/dev/null || cached_or_lacks "needs Go $GO_AT_LEAST or newer (https://go.dev/doc/install), there is no go on PATH"
installed=$(GOTOOLCHAIN=local go env GOVERSION); installed=${installed#go}
! older "$installed" 1.21 || cached_or_lacks "needs Go $GO_AT_LEAST or newer, go on PATH is $installed"
# From 1.21 on an older Go fetches the newer one itself, as a module.
if older "$installed" "$GO_AT_LEAST"; then export GOTOOLCHAIN=auto; else export GOTOOLCHAIN=local; fi
compiler=$(go env GOVERSION GOOS GOARCH 2>&1) || cached_or_lacks "Go $installed cannot fetch Go $GO_AT_LEAST: $(tail -n 1 <<<"$compiler")"
bin=$cache/programs-$(key_of "$compiler")
[[ ! $where ]] || passed

# --- one build at a time

mkdir -p "$bin"
exec 9>"$cache/lock"
flock --nonblock 9 || { echo "another build has the lock of $cache, waiting" >&2; flock 9; }
echo "$made_from" >"$bin/$MADE_FROM"
touch "$bin"
find "$cache" -mindepth 1 -maxdepth 1 -name 'programs-*' ! -path "$bin" -mtime "+$UNUSED_DAYS" -exec rm -rf {} +
rm -rf "$bin"/.work-*

package() {
  case $1 in
    etcd) echo go.etcd.io/etcd/server/v3 ;;
    coredns | pause) echo "./$1" ;;
    cert-manager) echo . ;;
    helm) echo helm.sh/helm/v3/cmd/helm ;;
    *) echo "k8s.io/kubernetes/cmd/$1" ;;
  esac
}
packages=() missing=()
for p in "${programs[@]}"; do [[ -x $bin/$p ]] || { missing+=("$p"); packages+=("$(package "$p")"); }; done
((${#missing[@]})) || passed

go_cache=$(go env GOCACHE); mkdir -p "$go_cache"
for d in "$go_cache" "$bin"; do
  free=$(df --output=avail -BM "$d" | tail -n 1 | tr -dc 0-9)
  ((free >= SPACE_MIB)) || lacks "needs $SPACE_MIB MiB free in $d to build ${missing[*]}, there are $free"
done

t=$EPOCHREALTIME
if ! said=$(go list -deps "${packages[@]}" 2>&1 >/dev/null); then
  printf '%s\n' "$said" >&2
  # Modules that are not what go.sum says, or that go.mod does not name, are our mistake (or worse), not an absent network.
  ! grep -Eq 'checksum mismatch|SECURITY ERROR|missing go.sum entry|updates to go.mod needed|no required module' <<<"$said" || exit 1
  lacks "cannot fetch the Go modules of ${missing[*]}: $(tail -n 1 <<<"$said")"
fi
printf '%7.1f s  modules of %s\n' "$(since "$t")" "${missing[*]}" >&2
t=$EPOCHREALTIME work=$(mktemp -d "$bin/.work-XXXXXX")
trap 'rm -rf "$work"' EXIT
# In one go, so that linking overlaps with compiling.
go build -p="${BUILD_JOBS:-2}" "${flags[@]}" -o "$work/" "${packages[@]}"
[[ ! -e $work/server ]] || mv "$work/server" "$work/etcd" # named after the last element of its path
sync "$work"/*
mv "$work"/* "$bin/"
printf '%7.1f s  compiled and linked %s\n' "$(since "$t")" "${missing[*]}" >&2
passed
