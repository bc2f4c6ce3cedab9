"""`python -m pvtctl`."""

import sys

from pvtctl.cli.main import main

sys.exit(main())
