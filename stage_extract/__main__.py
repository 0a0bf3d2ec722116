"""Stage 1 from the command line: Caffe files -> net.h5. Runs on Python 3.8 and newer."""

import sys

if sys.version_info < (3, 8):  # This file alone must be readable to the oldest interpreters.
    sys.stderr.write(
        "stage_extract needs Python 3.8 or newer, this is %d.%d.%d\n" % sys.version_info[:3]
    )
    sys.exit(7)

try:
    from stage_extract.worker import main
except ImportError as error:
    sys.stderr.write("stage_extract: %s (numpy, h5py and protobuf are needed)\n" % error)
    sys.exit(7)

if __name__ == "__main__":
    sys.exit(main())
