"""``python -m nni_proxyless``."""

import sys

from .cli.main import main

sys.exit(main())
