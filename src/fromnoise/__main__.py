"""``python -m fromnoise``."""

import sys

from fromnoise.cli import main

sys.exit(main())
