"""`python -m chiasm`: the program, for launchers that start modules."""

from chiasm.cli.main import main

if __name__ == "__main__":
    main()
