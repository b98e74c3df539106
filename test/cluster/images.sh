#!/usr/bin/env bash
# The images of the test cluster, as OCI archives in the cache. No registry, no daemon.
#
#   localhost/pause:1      sandbox of every pod     (static Go)
#   localhost/coredns:1    cluster DNS              (static Go)
#   localhost/busybox:1    a shell and its tools    (Debian busybox; its wget crashes on host names, use nc or node)
#   localhost/node:24      C library closure + our pinned Node.js + a shell; the base for application images
#
#   images.sh               builds what is missing, prints the directory of the archives
#   images.sh pack REF DIR [options of charts/image/pack.ts]   an application image: localhost/node:24 + DIR as the top layer; prints the archive
#   images.sh load ARCHIVE [nX...]                      imports into the nodes (default: all)
. "$(dirname "$0")/lib.sh"

node_program=$(node -p 'process.execPath')
key=$({ echo "$BIN" "$TOOLS"; sha256sum "$node_program" "$HERE/images.sh" "$HERE"/../../{charts/image/{pack,oci,entries}.ts,common/tar.ts}; } | sha256sum | cut -c1-16)
I=$CACHE/images-$key
mkdir -p "$I"
pack() { node "$HERE/../../charts/image/pack.ts" "$@" >&2; }

# The files a dynamic program needs: itself is not included.
closure() { # closure PROGRAM ROOT
  local lib
  ldd "$1" | grep -o '/[^ ]*' | while read -r lib; do
    mkdir -p "$2$(dirname "$lib")"; cp -L "$lib" "$2$lib"
  done
}

base_root() {
  local r=$1; mkdir -p "$r"/{bin,etc,tmp,usr/bin,usr/local/bin,home/nonroot}
  local busybox; busybox=$(tool_path busybox)
  cp "$busybox" "$r/bin/busybox"
  closure "$r/bin/busybox" "$r"
  local applet; for applet in $("$r/bin/busybox" --list); do [[ -e $r/bin/$applet ]] || ln -s busybox "$r/bin/$applet"; done
  echo 'root:x:0:0:root:/:/bin/sh
nonroot:x:65532:65532:nonroot:/home/nonroot:/bin/sh' >"$r/etc/passwd"
  echo 'root:x:0:
nonroot:x:65532:' >"$r/etc/group"
  echo 'hosts: files dns' >"$r/etc/nsswitch.conf"
  chmod 1777 "$r/tmp"
}

build() {
  local w p; w=$(mktemp -d "$I/.work-XXXXXX"); trap 'rm -rf "$w"' RETURN
  for p in pause coredns; do
    [[ ! -s $I/$p.tar ]] || continue
    mkdir -p "$w/$p"; cp "$BIN/$p" "$w/$p/"
    pack "$I/$p.tar" "localhost/$p:1" --entrypoint "/$p" "$w/$p"
  done
  if [[ ! -s $I/busybox.tar || ! -s $I/node.tar ]]; then
    base_root "$w/base"
    pack "$I/busybox.tar" localhost/busybox:1 --entrypoint /bin/sh "$w/base"
    mkdir -p "$w/node/usr/local/bin"
    cp "$node_program" "$w/node/usr/local/bin/node"
    closure "$w/node/usr/local/bin/node" "$w/node"
    rm -rf "$I/layers"; mkdir "$I/layers"; mv "$w/base" "$w/node" "$I/layers/"
    pack "$I/node.tar" localhost/node:24 --entrypoint /usr/local/bin/node "$I/layers/base" "$I/layers/node"
  fi
}

exec 8>"$I/lock"; flock 8
build
flock -u 8

case ${1:-} in
  '') echo "$I" ;;
  pack)
    ref=$2 top=$3; shift 3
    out=$CLUSTER_DIR/images/$(tr '/:' '__' <<<"$ref").tar; mkdir -p "$CLUSTER_DIR/images"
    pack "$out" "$ref" "$@" "$I/layers/base" "$I/layers/node" "$top"
    echo "$out" ;;
  load)
    archive=$2; shift 2; [[ $# -gt 0 ]] || set -- $(nodes)
    for n in "$@"; do in_node "$n" ctr -n k8s.io images import - <"$archive" >/dev/null; done ;;
  *) die "unknown command '$1'" ;;
esac
