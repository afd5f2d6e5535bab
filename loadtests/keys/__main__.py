"""python -m loadtests.keys admission|fairness|overload"""

from __future__ import annotations

from loadtests.keys.command import main

if __name__ == "__main__":
    raise SystemExit(main())
