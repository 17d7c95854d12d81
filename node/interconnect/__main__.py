"""The interconnect as a process: `python -m node.interconnect`, see interconnect.py."""

import sys

from node.interconnect.interconnect import main

main(sys.argv[1:])
