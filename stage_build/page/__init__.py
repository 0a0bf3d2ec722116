"""report.html: the proof that a person can read, in one file that asks the network for nothing."""

from stage_build.page.writing import write_page

__all__ = ["write_page"]
