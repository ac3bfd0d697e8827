"""`python -m uss_bench`, also installed as `uss-bench`."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
