"""`python -m vhost9p`."""

import sys

from vhost9p.cli import main

if __name__ == "__main__":
    sys.exit(main())
