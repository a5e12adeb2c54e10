"""`python -m pruning` and the command `pruning-sweeps` do what main.py does."""

import runpy
import sys

from pruning.program import MAIN


def main() -> None:
    """Run main.py with the arguments of this process."""
    runpy.run_path(str(MAIN), run_name="__main__")


if __name__ == "__main__":
    sys.argv[0] = str(MAIN)
    main()
