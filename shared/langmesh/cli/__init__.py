"""The command line ``langmesh``; in the repository it is called through ``./mesh``.

Exit codes: 0 success; 1 a failure that the message explains; 2 wrong usage; 3 the run itself
failed; 130 interrupted.
"""

EXIT_INTERRUPTED = 130


def main() -> int:
    """Run the command in ``sys.argv`` and return its exit code."""
    try:
        # Imported here so that Ctrl-C is answered without a traceback from the first moment.
        from langmesh.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
