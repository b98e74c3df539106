#!/usr/bin/env bash
# A cluster for as long as somebody holds on to it: up, "up" on stdout, and down as soon as stdin ends, which it does when its holder dies, however that is.
# What an earlier holder left goes first. Exits 1 when anything is left on this machine afterwards, and says what. Start it in a session of its own
# (setsid), so that no signal of a terminal comes here.
# A line "keep" on stdin leaves logs and disks in CLUSTER_DIR.kept, as a start that failed does.
#   CLUSTER_NAME=NAME hold.sh [options of up.sh]
. "$(dirname "$0")/lib.sh"
trap '' INT TERM HUP PIPE
[[ $EUID == 0 ]] || die "needs root"

# Another run may have it: wait until that one is over. Daemons do not inherit the lock, or it would outlive us.
mkdir -p "$CACHE"
exec 6>"$CACHE/hold-$CLUSTER_NAME.lock"
flock --wait 900 6 || die "somebody has cluster '$CLUSTER_NAME' since a quarter of an hour"

"$HERE/down.sh" >/dev/null 6>&-
[[ ! $(left) ]] || die "this machine has something of a cluster '$CLUSTER_NAME' that down.sh does not know: $(left)"
alone && before=$(machine_wide) || before=
rc=0
if "$HERE/up.sh" "$@" >&2 6>&-; then
  echo up
  wish=$(cat 6>&-)
  T0=$EPOCHREALTIME
  if [[ $wish == *keep* ]]; then "$HERE/down.sh" --keep >&2 6>&- || rc=1; else "$HERE/down.sh" >&2 6>&- || rc=1; fi
  say "down" >&2 || true
else
  rc=1
fi
after=$(left)
# Others may have a cluster here, too; then these are not ours alone.
if [[ $before ]] && alone; then after+=$(diff <(echo "$before") <(machine_wide)) || true; fi
[[ ! $after ]] || { rc=1; printf 'hold.sh: the cluster left something behind:\n%s\n' "$after" >&2 || true; }
exit $rc
