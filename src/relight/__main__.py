"""``python -m relight``: the command line, where the script is not on the path."""

from relight.cli.main import main

main()
