"""`python -m pathline` is `pathline`."""

import sys

from pathline.cli import main

sys.exit(main())
