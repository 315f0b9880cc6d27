# In the guest: a volume by the kernel's AoE driver, while the target is killed and comes back.
. /guest/lib.sh
D=/dev/etherd/e7.2
S=/sys/block/etherd!e7.2
found() { [ -b $D ] || { echo > /dev/etherd/discover; false; }; }
wait_until 30 "the target is discovered" found
up() { [ "$(cat $S/state)" = up ]; }
wait_until 30 "the target is up" up
echo "state $(cat $S/state), payload $(cat $S/payload), firmware $(cat $S/firmware-version), size $(blockdev --getsize64 $D)"
[ "$(blockdev --getsize64 $D)" = $((256 * 1024 * 1024)) ] || die "size $(blockdev --getsize64 $D)"

step mkfs.ext4 -q -F $D || die mkfs
mkdir -p /mnt
mount -t ext4 $D /mnt || die mount
step fio --name=verify --filename=/mnt/fio --rw=randwrite --bsrange=4k-64k --size=16M --ioengine=libaio --direct=1 \
  --iodepth=8 --verify=crc32c --do_verify=1 --verify_fatal=1 --output=/tmp/fio.log || die fio
rm /mnt/fio
umount /mnt || die umount
step e2fsck -fn $D || die e2fsck

mount -t ext4 $D /mnt || die mount
echo READY_FOR_FAULTS
write_files /mnt 25
umount /mnt || die umount
step e2fsck -fn $D || die e2fsck
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 -o ro $D /mnt || die mount
sha256sum -c /tmp/sums > /tmp/sums.log 2>&1 || die "files are damaged: $(grep -v OK /tmp/sums.log)"
umount /mnt
