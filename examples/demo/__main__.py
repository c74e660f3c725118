"""The demonstration: ``python -m examples.demo``; see ``--help``."""

import sys

try:
    from examples.demo.command import main
except ModuleNotFoundError as exc:
    print(f"{exc}: `make demo` installs what the demonstration needs", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
