"""``python -m kpdeform`` is the command ``kpdeform``."""

from kpdeform.cli import main

if __name__ == "__main__":
    main()
