"""``python -m entrosparse`` is the command ``entrosparse``."""

import sys

from entrosparse.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
