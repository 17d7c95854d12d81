"""The keeper as a process: `python -m node.keeper`, see keeper.py."""

import sys

from node.keeper.keeper import main

sys.exit(main(sys.argv[1:]))
