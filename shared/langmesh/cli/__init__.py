"""The command line ``langmesh``; in the repository it is called through ``./mesh``.

Exit codes: 0 success; 1 a failure that the message explains; 2 wrong usage; 3 the run itself
failed; 130 interrupted.
"""

from langmesh.cli.main import main

__all__ = ["main"]
