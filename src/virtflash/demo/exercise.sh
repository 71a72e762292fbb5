# What a guest of the demonstration does with its disk. Runs inside the guest, from guest_init.sh; "filesystem" comes from
# the kernel's command line.
disk=/dev/vda
directory=/run/disk
mkdir "$directory"

report step "mkfs.$filesystem"
case $filesystem in
    ext4) mkfs.ext4 -q -F "$disk"; mount "$disk" "$directory" ;;
    # Only the trim below is to discard, so that its effect can be seen by itself.
    f2fs) load crypto/crc32_generic fs/f2fs/f2fs; mkfs.f2fs -q -f "$disk"; mount -o nodiscard "$disk" "$directory" ;;
esac
report size "$(cat /sys/block/vda/size)"

report step "write"
for number in 01 02 03 04 05 06 07 08; do
    head -c 8M /dev/urandom >"$directory/file-$number"
done
for number in $(seq 1 200); do echo "small file $number" >"$directory/small-$number"; done
cd "$directory"
sha256sum ./*-* >/run/checksums

report step "sync"
sync
echo 3 >/proc/sys/vm/drop_caches

report step "read back"
sha256sum --quiet -c /run/checksums
report files "$(wc -l </run/checksums)"
report bytes "$(cat ./*-* | wc -c)"

report step "delete"
rm ./*-*
cd /
sync

report step "fstrim"
report trimmed "$(fstrim -v "$directory")"

report step "unmount"
umount "$directory"
report step "power off"
