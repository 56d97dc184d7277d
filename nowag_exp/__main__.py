"""``python -m nowag_exp``."""

import sys

from nowag_exp.cli import main

sys.exit(main())
