"""`python -m imagedream`."""

import sys

from imagedream.cli import main

sys.exit(main())
