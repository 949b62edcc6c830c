"""`python -m palinode` is the `palinode` program."""

import sys

if __name__ == "__main__":
    # Python puts the current directory first, where a stranger's torch.py may lie. The installed program does not look there.
    if not sys.flags.safe_path:
        del sys.path[0]
    from palinode.cli.main import main

    main()
