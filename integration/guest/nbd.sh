# In the guest: a volume by the kernel's NBD client, with `agroblock nbd`, while the server is killed and comes back.
. /guest/lib.sh
D=/dev/nbd0
agroblock -v nbd demo $D $AGROBLOCK_OPTIONS > /tmp/device 2> /tmp/agroblock.log &
agroblock=$!
wait_until 30 "the device" test -s /tmp/device
[ "$(cat /tmp/device)" = $D ] || die "it says $(cat /tmp/device)"
echo "size $(blockdev --getsize64 $D), block $(blockdev --getss $D)"
agroblock list | grep -q "$D *demo" || die "not listed: $(agroblock list)"

step mkfs.ext4 -q -F $D || die mkfs
mkdir -p /mnt
mount -t ext4 $D /mnt || die mount
step fio --name=verify --filename=/mnt/fio --rw=randwrite --bsrange=4k-64k --size=32M --ioengine=libaio --direct=1 \
  --iodepth=16 --verify=crc32c --do_verify=1 --verify_fatal=1 --output=/tmp/fio.log || die fio
rm /mnt/fio
step fstrim -v /mnt || die fstrim
umount /mnt || die umount
step e2fsck -fn $D || die e2fsck

mount -t ext4 $D /mnt || die mount
agroblock nbd -d $D 2> /tmp/refused && die "detached although it is mounted"
grep -q "in use" /tmp/refused || die "refused otherwise: $(cat /tmp/refused)"
echo READY_FOR_FAULTS
write_files /mnt 40
umount /mnt || die umount
step e2fsck -fn $D || die e2fsck
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 -o ro $D /mnt || die mount
sha256sum -c /tmp/sums > /tmp/sums.log 2>&1 || die "files are damaged: $(grep -v OK /tmp/sums.log)"
umount /mnt

echo READY_TO_GROW
grown() { [ "$(blockdev --getsize64 $D)" = "$GROWN_SIZE" ]; }
wait_until 60 "the new size" grown
step agroblock nbd -d $D || die detach
wait $agroblock || die "agroblock ended with $?"
[ "$(agroblock list | grep -c nbd0)" = 0 ] || die "still listed"
grep -i "dead\|again\|taken" /tmp/agroblock.log
