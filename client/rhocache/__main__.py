"""``python -m rhocache``, which torchrun needs: ``torchrun ... -m rhocache train CONFIG``."""

from rhocache.cli import main

if __name__ == "__main__":
    main()
