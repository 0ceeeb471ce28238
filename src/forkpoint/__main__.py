"""`python -m forkpoint` is the command line."""

import sys

from forkpoint.cli import main

sys.exit(main())
