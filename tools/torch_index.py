"""Which package index should PyTorch come from? The tool prints the index's address, or nothing where pip's own index is right.

The tool writes the reason to stderr. On Linux the usual index gives PyTorch's GPU build with gigabytes of NVIDIA libraries, which a
machine without an NVIDIA driver cannot use. On such a machine the tool takes the index of CPU builds, when that index answers
within a few seconds and has the wanted version.

    python tools/torch_index.py VERSION [INDEX]
"""

import shutil
import sys
import urllib.request
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TRY_SECONDS = 5.0
DRIVER = Path("/proc/driver/nvidia/version")


def chosen_index(version, index=CPU_INDEX, *, platform=sys.platform, driver=None):
    """(index or "", the reason in one line).

    `driver` says whether there is an NVIDIA driver; with None the function looks for one.
    """
    if platform != "linux":
        return "", "PyTorch comes from pip's own index: outside Linux that is the CPU build"
    if driver if driver is not None else has_nvidia_driver():
        return "", "PyTorch comes from pip's own index: this machine has an NVIDIA driver"
    if why_not := problem_of(index, version):
        return "", f"PyTorch comes from pip's own index, whatever build that has: the CPU index {why_not}"
    return index, f"PyTorch's CPU build comes from {index}: this machine has no NVIDIA driver (TORCH_INDEX= overrides)"


def has_nvidia_driver():
    return DRIVER.exists() or shutil.which("nvidia-smi") is not None


def problem_of(index, version):
    """The reason in a few words why the index cannot be used; None where the index lists this version."""
    try:
        with urllib.request.urlopen(f"{index.rstrip('/')}/torch/", timeout=TRY_SECONDS) as answer:
            listing = answer.read().decode("utf-8", "replace")
    except (OSError, ValueError) as refused:
        return f"does not answer ({type(refused).__name__})"
    return None if f"torch-{version}" in listing else f"does not have version {version}"


if __name__ == "__main__":
    address, reason = chosen_index(*sys.argv[1:])
    print(reason, file=sys.stderr)
    print(address)
