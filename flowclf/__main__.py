"""`python -m flowclf`."""

from flowclf.cli import main

if __name__ == "__main__":
    main()
