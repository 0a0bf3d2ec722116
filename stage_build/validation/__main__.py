"""Accuracy of a converted model from the command line: `python -m stage_build.validation`."""

import signal
import sys

from stage_build.validation.worker import main

if __name__ == "__main__":
    # So that what is being written is written to its end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
