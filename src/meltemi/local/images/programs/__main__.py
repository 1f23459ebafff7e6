"""`python -m meltemi.local.images.programs NAME ARGS...`."""

import os
import sys

from meltemi.local.images.programs import NAMES, run


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m meltemi.local.images.programs {'|'.join(sorted(NAMES))} ARGS")
    sys.exit(run(sys.argv[1], sys.argv[2:], os.environ))


if __name__ == "__main__":
    main()
