#!/usr/bin/python3
# A file system of a real source tree lives on a volume: made by mke2fs, loaded by agroctl, mounted
# through nbdfuse and a loop device, compared file by file, written to, and compared again after a
# restart. Where FUSE or loop devices are missing the image is copied back with nbdcopy and looked at
# with debugfs and e2fsck instead; the test says which way it went.
#
# Usage: filesystem_test.py BIN_DIR
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys

from agro_testlib import MIB, Process, Standalone, need_tools, run, scratch_dir, step, wait_for

VOLUME, SIZE = "tree", 160 * MIB
TREE_LIMIT, FILE_LIMIT = 50 * MIB, 4000
SOURCES = [os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."), "/usr/include", "/usr/lib/python3"]
SKIPPED_NAMES = {".git", "build", "agro-data", "__pycache__"}


def make_tree(path):
    """Copies of real source files, until they are enough."""
    total = count = 0
    for number, source in enumerate(SOURCES):
        for folder, names, files in os.walk(source):
            names[:] = sorted(set(names) - SKIPPED_NAMES)
            target = os.path.normpath(os.path.join(path, str(number), os.path.relpath(folder, source)))
            os.makedirs(target, exist_ok=True)
            for name in sorted(files):
                if os.path.islink(os.path.join(folder, name)) or not os.path.isfile(os.path.join(folder, name)):
                    continue
                size = os.path.getsize(os.path.join(folder, name))
                if total + size > TREE_LIMIT or count == FILE_LIMIT or size > 10 * MIB:
                    continue
                shutil.copyfile(os.path.join(folder, name), os.path.join(target, name))
                total, count = total + size, count + 1
    os.symlink("0/README.md", os.path.join(path, "link"))
    with open(os.path.join(path, "sparse"), "wb") as sparse:
        sparse.seek(30 * MIB)
        sparse.write(b"the end")
    assert count > 300, f"only {count} files found"
    print(f"{count} files, {total / MIB:.0f} MiB", flush=True)


def checksums(path):
    """What is under `path`: relative name to checksum, link target or 'directory'."""
    found = {}
    for folder, names, files in os.walk(path):
        names[:] = [name for name in names if name != "lost+found"]
        for name in names + files:
            full = os.path.join(folder, name)
            key = os.path.relpath(full, path)
            if os.path.islink(full):
                found[key] = "-> " + os.readlink(full)
            elif os.path.isdir(full):
                found[key] = "directory"
            else:
                with open(full, "rb") as file:
                    found[key] = hashlib.sha256(file.read()).hexdigest()
    return found


def expect_same(wanted, found):
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    changed = sorted(key for key in wanted.keys() & found.keys() if wanted[key] != found[key])
    assert not (missing or extra or changed), f"missing {missing[:5]}, extra {extra[:5]}, changed {changed[:5]}"
    print(f"{len(found)} entries match", flush=True)


@contextlib.contextmanager
def mounted(server, scratch):
    """The volume's file system, mounted; everything is undone, also on failure."""
    image, mount_point = f"{scratch}/disk", f"{scratch}/mnt"
    open(image, "a").close()
    os.makedirs(mount_point, exist_ok=True)
    with contextlib.ExitStack() as undo:
        fuse = Process(["nbdfuse", image, server.uri(VOLUME)], f"{scratch}/nbdfuse.log")

        def end_fuse():
            subprocess.run(["umount", image], capture_output=True)
            fuse.wait()
        undo.callback(end_fuse)
        wait_for("nbdfuse serves", lambda: os.path.getsize(image) == SIZE or not fuse.alive())
        loop = run(["losetup", "--find", "--show", image]).stdout.strip()
        undo.callback(run, ["losetup", "--detach", loop])
        run(["mount", "-t", "ext4", loop, mount_point])
        undo.callback(run, ["umount", mount_point])
        yield mount_point


def why_not_mountable(scratch):
    """Tries it out on a small image of its own; returns what stands in the way, or None."""
    for tool in ("nbdfuse", "nbdkit", "losetup", "mount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if os.geteuid() != 0:
        return "not root"
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        return "no /dev/fuse or no /dev/loop-control"
    image = f"{scratch}/probe"
    os.makedirs(f"{scratch}/probe-mnt")
    with open(image, "wb") as file:
        file.truncate(8 * MIB)
    run(["mke2fs", "-q", "-t", "ext4", image])
    done = run(["mount", "-o", "loop", image, f"{scratch}/probe-mnt"], check=False)
    if done.returncode != 0:
        return f"loop mount: {done.stderr.strip()}"
    run(["umount", f"{scratch}/probe-mnt"])
    fuse_file = f"{scratch}/probe-fuse"
    open(fuse_file, "w").close()
    fuse = Process(["nbdfuse", fuse_file, "--command", "nbdkit", "-s", "null", "1M"], f"{scratch}/probe.log")
    wait_for("the nbdfuse probe", lambda: os.path.getsize(fuse_file) == MIB or not fuse.alive())
    usable = fuse.alive()
    subprocess.run(["umount", fuse_file], capture_output=True)
    fuse.wait()
    return None if usable else f"nbdfuse: {fuse.log().strip()}"


def check_fsck(server, scratch):
    """e2fsck, of a copy: the file system must be clean as it lies on the volume."""
    copy = f"{scratch}/copy.img"
    run(["nbdcopy", server.uri(VOLUME), copy])
    run(["e2fsck", "-fn", copy])
    os.unlink(copy)
    print("e2fsck -fn: clean", flush=True)


def write_more(path):
    """Changes of all kinds, synced. Returns what is there now."""
    shutil.copytree(f"{path}/0/src", f"{path}/copied")
    shutil.rmtree(f"{path}/0/src/block")
    os.rename(f"{path}/0/src/base", f"{path}/renamed")
    os.truncate(f"{path}/sparse", 12345)
    with open(f"{path}/random", "wb") as file:
        for _ in range(20):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    with open(f"{path}/random", "r+b") as file:
        for number in range(200):
            file.seek(number * 99991)
            file.write(b"x" * (number * 7 + 1))
            if number % 20 == 0:
                file.flush()
                os.fsync(file.fileno())
    return checksums(path)


def by_mounting(server, restart, tree, scratch):
    step("mounted: every file's checksum matches")
    with mounted(server, scratch) as path:
        expect_same(checksums(tree), checksums(path))
    check_fsck(server, scratch)
    step("written to, unmounted, the server stopped and started")
    with mounted(server, scratch) as path:
        changed = write_more(path)
        run(["fstrim", path])
    server.stop()
    server = restart()
    check_fsck(server, scratch)
    with mounted(server, scratch) as path:
        expect_same(changed, checksums(path))
    return server


def by_copying(server, restart, tree, image, scratch):
    def read_back(name):
        run(["nbdcopy", server.uri(VOLUME), name])
        run(["e2fsck", "-fn", name])
        out = f"{name}.tree"
        os.makedirs(out)
        run(["debugfs", "-R", f"rdump / {out}", name])
        found = checksums(out)
        shutil.rmtree(out)
        return found

    step("copied back: every file's checksum matches")
    expect_same(checksums(tree), read_back(f"{scratch}/back.img"))
    step("written to by debugfs and nbdcopy, the server stopped and started")
    with open(f"{scratch}/random", "wb") as file:
        file.write(os.urandom(10 * MIB))
    run(["debugfs", "-w", "-R", f"write {scratch}/random random", image])
    run(["nbdcopy", "--flush", image, server.uri(VOLUME)])
    server.stop()
    server = restart()
    shutil.copyfile(f"{scratch}/random", f"{tree}/random")
    expect_same(checksums(tree), read_back(f"{scratch}/back.img"))
    return server


def main():
    bin_dir = sys.argv[1]
    need_tools("mke2fs", "e2fsck", "debugfs", "nbdcopy")
    scratch = scratch_dir()
    tree, image = f"{scratch}/tree", f"{scratch}/image"
    step("mke2fs makes an image of a source tree")
    make_tree(tree)
    with open(image, "wb") as file:
        file.truncate(SIZE)
    run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image])

    def restart():
        return Standalone(bin_dir, f"{scratch}/data", "--size", "4GiB")
    server = restart()
    step("agroctl block load")
    run([f"{bin_dir}/agroctl", "-C", f"sqlite:{scratch}/data/meta.db", "block", "load", image, VOLUME])
    obstacle = why_not_mountable(scratch)
    if obstacle is None:
        print("going through nbdfuse, losetup and mount", flush=True)
        server = by_mounting(server, restart, tree, scratch)
    else:
        print(f"going through nbdcopy and debugfs: {obstacle}", flush=True)
        server = by_copying(server, restart, tree, image, scratch)
    server.stop()


if __name__ == "__main__":
    main()
