"""`python -m attar`: the command line, as torchrun starts it: `torchrun --nproc_per_node 2 -m attar distill …`."""

from __future__ import annotations

from attar.cli import main

if __name__ == "__main__":
    main()
