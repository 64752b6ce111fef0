"""``python -m langmesh.cli``."""

import sys

from langmesh.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
