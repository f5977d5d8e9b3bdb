"""``python -m nni_proxyless``."""

import sys

from .cli import main

sys.exit(main())
