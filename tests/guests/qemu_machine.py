"""An x86 machine emulated by QEMU (no KVM is needed) whose disk is served over vhost-user, and a small Linux in it."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from console_process import ConsoleProcess

from virtflash.demo.uml_guest import INIT, REPORT_PREFIX

MEMORY = "256M"
QEMU = "qemu-system-x86_64"
BUSYBOX = "busybox"
CONSOLE = ("-accel", "tcg", "-nodefaults", "-display", "none", "-serial", "stdio")
MODERN = "vhost-user-blk-pci,disable-legacy=on"
TRANSITIONAL = "vhost-user-blk-pci-transitional"
LEGACY = "vhost-user-blk-pci,disable-modern=on,disable-legacy=off"
# In this order: each needs those before it.
MODULES = (
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
    "crc32c_generic", "crc16", "mbcache", "jbd2", "ext4",
)  # fmt: skip
# What the common init of the guests takes for granted.
PREPARE = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
for module in {" ".join(MODULES)}; do [ ! -e /modules/$module.ko ] || insmod /modules/$module.ko; done
echo
exec /guest_init.sh
"""


def qemu_command(
    socket: Path | str,
    device: str,
    options: Sequence[str] = (),
    *,
    program: Sequence[str] = (QEMU,),
    may_restart: bool = False,
) -> list[str]:
    """`device`: the front end, as QEMU's -device has it, without the chardev. The console is the first serial port."""
    return [
        *program,
        "-machine", "q35,memory-backend=mem",
        "-m", MEMORY,
        "-object", f"memory-backend-memfd,id=mem,size={MEMORY},share=on",
        "-chardev", f"socket,id=disk,path={socket}",
        "-device", f"{device},chardev=disk",
        *CONSOLE,
        *([] if may_restart else ["-no-reboot"]),
        *options,
    ]  # fmt: skip


class LinuxConsole(ConsoleProcess):
    """Debian's stock kernel with busybox, booted with linux_options()."""

    def run(self, seconds: float) -> dict[str, str]:
        """Wait until it has powered off; return what the script reported. ConsoleError: it failed."""
        self.wait_end(seconds)
        reports = self.reports()
        if reports.get("status") != "0":
            raise self.error(f"its script ended with status {reports.get('status', 'unknown')}")
        return reports

    def reports(self) -> dict[str, str]:
        lines = (line.strip() for line in self.text.splitlines())
        reported = (line.removeprefix(REPORT_PREFIX) for line in lines if line.startswith(REPORT_PREFIX))
        return {kind: text for kind, _, text in (line.partition(" ") for line in reported)}

    def wait_report(self, kind: str, seconds: float) -> None:
        self.wait_for(f"{REPORT_PREFIX}{kind}", seconds)


def linux_options(kernel: Path | str, initramfs: Path | str) -> list[str]:
    """The options with which a machine boots Linux. The last word is the environment of the common init."""
    return [
        "-kernel", str(kernel),
        "-initrd", str(initramfs),
        "-append", "console=ttyS0 quiet panic=-1 body=/body.sh",
    ]  # fmt: skip


def make_initramfs(modules: Path, script: str, directory: Path) -> Path:
    """A file system in an archive: busybox, the modules, and `script`, which runs as in a user-mode Linux guest."""
    root = directory / "initramfs"
    for name in ("bin", "dev", "proc", "sys", "run", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which(BUSYBOX) or BUSYBOX, root / "bin/busybox")
    for module in modules.glob("*.ko"):
        shutil.copy(module, root / "modules")
    shutil.copy(INIT, root / "guest_init.sh")
    (root / "init").write_text(PREPARE)
    (root / "body.sh").write_text(script)
    for name in ("init", "guest_init.sh"):
        (root / name).chmod(0o755)
    archive = directory / "initramfs.cpio"
    with archive.open("wb") as output:
        names = "\n".join(str(path.relative_to(root)) for path in [root, *sorted(root.rglob("*"))])
        command = ["cpio", "-o", "-H", "newc", "--quiet"]
        subprocess.run(command, cwd=root, input=names.encode(), stdout=output, check=True)
    return archive
