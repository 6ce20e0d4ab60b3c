"""``python -m hyperdrive_hdl`` is ``hyperdrive``."""

import sys

from .cli import main

sys.exit(main())
