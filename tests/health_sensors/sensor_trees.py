"""Trees as Linux shows them, in a directory."""

from pathlib import Path


def plant(root: Path, files: dict[str, str | bytes]) -> Path:
    """Files by their paths below `root`, with what stands in them."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root
