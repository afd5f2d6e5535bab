"""Entry of `python -m loadtests.attack`."""

from __future__ import annotations

from loadtests.attack.command import main

if __name__ == "__main__":
    main()
