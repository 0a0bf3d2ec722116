"""Runs one of our packages under any interpreter, and shows that interpreter nothing else of ours.

    PYTHON bootstrap.py ROOT PACKAGE [ARGUMENT]...

`schemas` and PACKAGE, or the package that it is a part of, come from ROOT and from nowhere else;
every other import is served as if this file did not exist, so neither the packages installed beside
us nor modules lying in the current folder are seen. A package that PACKAGE misses ends it with exit
code 7, for environment, and a line that names it. The syntax is what Python 2.7 and 3 share:
PACKAGE itself tells an old interpreter, in one line, that it is too old.
"""

import os
import runpy
import sys
import traceback

OURS = ("driver", "orchestrate", "schemas", "stage_build", "stage_extract")


def show_only(root, names):
    # type: (str, tuple[str, str]) -> None
    """Makes the top-level packages `names` importable from `root`, which stays off the path.

    The others of OURS are found nowhere, not even where we are installed.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry and os.path.abspath(entry) != here]
    try:
        from importlib.machinery import PathFinder
    except ImportError:
        sys.path.insert(0, root)
        return

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
            if path is not None or name not in OURS:
                return None
            if name not in names:
                raise ImportError(name + " is not for this process")
            return PathFinder.find_spec(name, [root])

    sys.meta_path.insert(0, Finder)


if __name__ == "__main__":
    root, package = sys.argv[1:3]
    sys.argv[:] = [package] + sys.argv[3:]
    show_only(root, ("schemas", package.split(".")[0]))
    try:
        runpy.run_module(package, run_name="__main__", alter_sys=True)
    except ImportError as error:
        traceback.print_exc()
        missing = ": ".join(["error", sys.executable, str(error)])
        sys.stderr.write(missing + " (run `orchestrate doctor`)\n")
        sys.exit(7)
