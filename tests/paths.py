"""Where the project and the shared goldens are."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
GOLDENS = SHARED / "goldens"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared goldens at {SHARED}")
