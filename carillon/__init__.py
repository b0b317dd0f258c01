"""The command line: `python -m carillon`, or bin/carillon."""
