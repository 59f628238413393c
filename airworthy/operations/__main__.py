"""`python -m airworthy.operations`."""

import sys

from airworthy.operations import main

sys.exit(main())
