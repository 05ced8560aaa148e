"""`python -m aiterlite` is the command `aiterlite`."""

import sys

from aiterlite.cli import main

if __name__ == "__main__":
    sys.exit(main())
