"""`python -m meltemi.app OPTIONS`: the control plane as the local platform runs it.

OPTIONS is `app.options.Options` as a JSON object. `meltemi serve` is the same for people, whose
libraries for command lines would stay in memory for as long as the control plane runs.
"""

import os
import sys

from meltemi.app.options import options_from_json
from meltemi.app.serve import run

if __name__ == "__main__":
    run(options_from_json(sys.argv[1], os.environ))
