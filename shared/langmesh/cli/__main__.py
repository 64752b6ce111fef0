"""``python -m langmesh.cli``."""

import sys

from langmesh.cli import main

if __name__ == "__main__":
    sys.exit(main())
