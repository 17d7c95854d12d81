"""A worker as a process: `python -m node.worker`, see worker.py."""

import sys

from node.worker.worker import main

main(sys.argv[1:])
