#!/usr/bin/env bash
# Breaks a running cluster on purpose, and mends it.
#
#   faults.sh cut A B        A and B no longer hear each other. A, B: n1, n2, ... or cp
#   faults.sh oneway A B     B no longer hears A
#   faults.sh loss A B PCT   B loses PCT of 100 packets from A
#   faults.sh slow A KBIT    A's cable carries KBIT kbit/s, both ways
#   faults.sh heal           all of the above, everywhere
#   faults.sh unplug A | plug A      the cable
#   faults.sh kill nX        every process of the node ends at once, its cable is pulled; unlike in
#                            a power cut, what was written but not synced survives
#   faults.sh boot nX        power on
#   faults.sh stop nX DAEMON | start nX DAEMON     kubelet, kube-proxy, containerd
#   faults.sh gateway nX     this machine reaches services through nX (after up.sh: n1)
#   faults.sh exec nX COMMAND...     runs inside the node
#   faults.sh api stop|cont|kill|start             the API server
#   faults.sh recycle        wipes released volumes and offers them again
. "$(dirname "$0")/lib.sh"

address() { if [[ $1 == cp ]]; then echo "$SERVER"; else echo "$(node_ip "$1"), $(pod_cidr "$1")"; fi; }
known() { [[ $1 == cp || " $(nodes | tr '\n' ' ')" == *" $1 "* ]] || die "no node '$1'"; }

# deaf B A [MATCH]: B drops what comes from A's addresses, before anything else sees it
deaf() {
  known "$1"; known "$2"
  with_tools ip netns exec "$(netns "$1")" nft -f - <<R
add table ip fault
add chain ip fault in { type filter hook prerouting priority -400; }
add rule ip fault in iifname "eth0" ip saddr { $(address "$2") } ${3:-} counter drop
R
}

verb=${1:-}; shift || true
case $verb in
  cut) deaf "$1" "$2"; deaf "$2" "$1" ;;
  oneway) deaf "$2" "$1" ;;
  loss) deaf "$2" "$1" "numgen random mod 100 < $3" ;;
  slow)
    known "$1"
    tc qdisc replace dev "$(link "$1")" root tbf rate "$2kbit" burst 16kb latency 200ms
    ip netns exec "$(netns "$1")" tc qdisc replace dev eth0 root tbf rate "$2kbit" burst 16kb latency 200ms ;;
  heal)
    for n in cp $(nodes); do
      [[ -e /run/netns/$(netns "$n") ]] || continue
      with_tools ip netns exec "$(netns "$n")" nft delete table ip fault 2>/dev/null || true
      ip netns exec "$(netns "$n")" tc qdisc del dev eth0 root 2>/dev/null || true
      tc qdisc del dev "$(link "$n")" root 2>/dev/null || true
      ip link set "$(link "$n")" up
    done ;;
  unplug) known "$1"; ip link set "$(link "$1")" down ;;
  plug) known "$1"; ip link set "$(link "$1")" up ;;
  kill) known "$1"; power_off "$1"; uncable "$1" ;;
  boot) known "$1"; pid_of "$1" >/dev/null || IMAGES=$("$HERE/images.sh") "$HERE/node.sh" boot "$1" ;;
  stop) known "$1"; in_node "$1" sh -c "kill -9 \$(cat /run/$2.pid)" ;;
  start) known "$1"; in_node "$1" sh -c "echo $2 >/run/start" ;;
  gateway) known "$1"; ip route replace "$SERVICE_CIDR" via "$(node_ip "$1")" ;;
  exec) n=$1; shift; known "$n"; in_node "$n" "$@" ;;
  api)
    case $1 in
      stop) kill -STOP "$(pid_of kube-apiserver)" ;;
      cont) kill -CONT "$(pid_of kube-apiserver)" ;;
      kill) halt kube-apiserver KILL ;;
      start) "$HERE/up.sh" ;;
      *) die "api stop|cont|kill|start" ;;
    esac ;;
  recycle)
    kubectl get pv -o jsonpath='{range .items[?(@.status.phase=="Released")]}{.metadata.name}{"\n"}{end}' | while read -r pv; do
      n=${pv%%-*} v=${pv#*-}
      pid_of "$n" >/dev/null || continue
      in_node "$n" find "/mnt/$v" -mindepth 1 ! -name lost+found -delete
      in_node "$n" sh -c "chown 0:0 /mnt/$v; chmod 755 /mnt/$v"
      kubectl patch pv "$pv" --type=json -p '[{"op":"remove","path":"/spec/claimRef"}]'
    done ;;
  *) sed -n '2,/^\. /{/^\. /d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
