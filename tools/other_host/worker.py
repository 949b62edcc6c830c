"""`palinode worker` with short pauses between two looks at the store."""

import sys

from palinode.cli.main import entry
from palinode.sweep import host

host.PAUSES_SECONDS = (0.5, 1.0, 2.0)

if __name__ == "__main__":
    sys.exit(entry(sys.argv[1:]))
