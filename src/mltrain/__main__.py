"""Run the command line as `python -m mltrain`."""

from mltrain.cli import main

main()
