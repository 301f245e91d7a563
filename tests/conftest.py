"""Two workers run the suite; each keeps to one thread, or they would wait for each other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in what tests start
