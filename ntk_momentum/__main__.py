"""`python -m ntk_momentum`, also from a checkout that is not installed."""

from __future__ import annotations

import sys

from .errors import MissingPackage


def main() -> int:
    """The command line, or one line saying that its parser is missing."""
    try:
        from . import cli
    except MissingPackage as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
