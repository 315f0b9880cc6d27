# In the guest: `agroblock nbd` serves the volume itself, from peers and an etcd outside. It is killed in the middle of writes, and
# stopped while the device is mounted; each time the next one goes on with the device.
. /guest/lib.sh
start() {
  rm -f /tmp/device
  agroblock -v --etcd $ETCD nbd demo > /tmp/device 2>> /tmp/agroblock.log &
  agroblock=$!
  wait_until 60 "the device" test -s /tmp/device
  D=$(cat /tmp/device)
}
start
echo "$D, $(blockdev --getsize64 $D) bytes"
step mkfs.ext4 -q -F $D || die mkfs
mkdir -p /mnt
mount -t ext4 $D /mnt || die mount
write_files /mnt 60 > /tmp/writes.log 2>&1 &
writer=$!
sleep 3
first=$D
step kill -9 $agroblock
step start
[ "$D" = "$first" ] || die "another device: $D"
grep -q "taken over" /tmp/agroblock.log || die "not taken over"
sleep 2
kill -TERM $agroblock
wait $agroblock || die "agroblock ended with $?"
grep -q "is in use and stays" /tmp/agroblock.log || die "it does not say that the device stays"
step start
[ "$D" = "$first" ] || die "another device: $D"
wait $writer || die "the writer: $(cat /tmp/writes.log)"
cat /tmp/writes.log
umount /mnt || die umount
step e2fsck -fn $D || die e2fsck
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 -o ro $D /mnt || die mount
sha256sum -c /tmp/sums > /tmp/sums.log 2>&1 || die "files are damaged: $(grep -v OK /tmp/sums.log)"
umount /mnt
kill -TERM $agroblock
wait $agroblock || die "agroblock ended with $?"
[ -e /sys/block/nbd0/pid ] && die "still attached"
echo "files: $(grep -c OK /tmp/sums.log)"
