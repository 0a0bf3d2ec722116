"""glog: lines on stderr, and the end of the process."""

import os


def log(level, place, message):
    os.write(2, f"{level}1122 10:00:00.000000     1 {place}] {message}\n".encode())


def fatal(place, message):
    """glog's LOG(FATAL)."""
    log("F", place, message)
    os.write(2, b"*** Check failure stack trace: ***\n")
    os.abort()


def check(holds, message, place="net.cpp:100"):
    """glog's CHECK."""
    if not holds:
        fatal(place, f"Check failed: {message}")
