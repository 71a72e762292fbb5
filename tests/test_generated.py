"""What is generated must say what its source says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_engine_knows_the_constants_of_the_standard() -> None:
    script = ROOT / "scripts/generate-virtio-pxd"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
