"""The command that writes the shipped file and the reference page: `python -m kata.config`."""

from __future__ import annotations

import argparse
import os
import sys

from kata.config.reference import page
from kata.config.shipped import shipped_file, write_shipped_file


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status, 1 when the file cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m kata.config", description=__doc__)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--docs", action="store_true", help="print docs/configuration.md")
    asked.add_argument(
        "--prefix", type=os.path.abspath, help="make the file of an installation below this folder"
    )
    parser.add_argument("--write", metavar="PATH", help="write it here instead of printing it")
    options = parser.parse_args(arguments)
    if options.docs and options.write:
        parser.error("--write goes with --prefix")
    try:
        if options.docs:
            sys.stdout.write(page())
        elif options.write:
            write_shipped_file(options.prefix, options.write)
        else:
            sys.stdout.write(shipped_file(options.prefix))
    except OSError as error:
        sys.stderr.write(f"{options.write or 'stdout'}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
