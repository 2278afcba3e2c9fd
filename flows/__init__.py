"""Prefect flows and the command line."""

import os
import sys

# `python -m flows.cli` puts the working directory first on the path, where a file of a stranger would take a library's place.
# While this package is being looked for, which is before any library is, `sys.argv[0]` is "-m".
if sys.argv[:1] == ["-m"] and sys.path[:1] == [os.getcwd()] and not os.path.samefile(os.getcwd(), f"{__path__[0]}/.."):
    del sys.path[0]
