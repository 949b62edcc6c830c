"""`python -m palinode` is the `palinode` program."""

from palinode.cli.main import main

if __name__ == "__main__":
    main()
