"""Run one of timm's scripts with our models registered, for those that have no option for it.

python -m nni_proxyless.timm_script validate.py --model proxyless_derived …
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from pathlib import Path

from .core.cpu_threads import environment

__all__ = ["main"]


def main() -> None:
    """The script runs as if it had been called itself; its exit code is ours."""
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        given = sys.argv[1] if len(sys.argv) > 1 else "nothing"
        print(f"timm_script: {given}: no such file; allowed: a script of timm's, with its arguments", file=sys.stderr)
        sys.exit(2)
    os.environ.update(environment())
    importlib.import_module("nni_proxyless.timm_models")  # for what it registers
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
