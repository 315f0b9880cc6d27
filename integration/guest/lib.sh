# What the guest's scripts share.
step() {
  local begun=$(cut -d ' ' -f 1 /proc/uptime) status=0
  echo "+ $*"
  "$@" || status=$?
  echo "  [$(awk "BEGIN { printf \"%.1f\", $(cut -d ' ' -f 1 /proc/uptime) - $begun }") s]"
  return $status
}
die() { echo "FAILED: $*"; cat /tmp/*.log 2>/dev/null; dmesg | tail -n 15; exit 1; }
wait_until() {  # SECONDS WHAT COMMAND...
  local left=$(($1 * 10)) what=$2
  shift 2
  until "$@"; do
    [ $((left -= 1)) -gt 0 ] || die "not in time: $what"
    usleep 100000
  done
}
# Writes COUNT files of random bytes, each durable before the next; says how long the slowest took.
write_files() {  # FOLDER COUNT
  local slowest=0 begun took
  for i in $(seq "$2"); do
    begun=$(cut -d ' ' -f 1 /proc/uptime)
    dd if=/dev/urandom of="$1/$i" bs=64k count=4 conv=fsync 2>/dev/null || die "file $i could not be written"
    sha256sum "$1/$i" >> /tmp/sums
    took=$(awk "BEGIN { printf \"%d\", ($(cut -d ' ' -f 1 /proc/uptime) - $begun) * 10 }")
    [ "$took" -gt "$slowest" ] && slowest=$took
    usleep 200000
  done
  echo "SLOWEST_WRITE_TENTHS=$slowest"
}
