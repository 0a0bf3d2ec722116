"""Stage 2 from the command line: net.h5 -> TensorFlow."""

import sys

from stage_build.worker import main

if __name__ == "__main__":
    sys.exit(main())
