#!/usr/bin/env python3
"""What this machine's kernel gives fio with io_uring on a file: the limit that a server on the same file can reach.

usage: bench/fio_limit.py DIRECTORY [--direct] [--size MIB] [--rounds N] [--seconds N]     needs fio
"""

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path

LOADS = [("randread", 4096, 1), ("randread", 4096, 32), ("randread", 4096, 128), ("randwrite", 4096, 32)]
LOADS += [("randread", 131072, 16)]


def fio(file: Path, load: tuple[str, int, int], options: argparse.Namespace) -> float:
    """Requests per second."""
    kind, block, depth = load
    command = ["fio", "--name=limit", f"--filename={file}", f"--size={options.size}M", f"--rw={kind}", f"--bs={block}"]
    command += ["--ioengine=io_uring", "--registerfiles=1", f"--iodepth={depth}", f"--direct={int(options.direct)}"]
    command += [
        f"--runtime={options.seconds}",
        "--time_based",
        "--norandommap",
        "--randrepeat=0",
        "--output-format=json",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    (job,) = json.loads(run.stdout[run.stdout.index("{") :])["jobs"]
    return float(job["read" if kind == "randread" else "write"]["iops"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    file = options.directory / "fio-limit.img"
    try:
        with file.open("wb") as written:
            for _ in range(options.size):
                written.write(os.urandom(1 << 20))
            os.fsync(written.fileno())
        for load in LOADS:
            iops = statistics.median(fio(file, load, options) for _ in range(options.rounds))
            print(f"{load[0]:10} {load[1]:7} bytes  depth {load[2]:4}  {iops:10.0f} requests/s", flush=True)
    finally:
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
