"""Mutated: the `supervisor` command with a fault put into the product, for controllers whose scenario must turn red.

`python -m crewkeeper_supervisor.cli.chaos_mutated NAME serve …`
"""

import sys

from crewkeeper_supervisor.chaos.product_mutations import applied
from crewkeeper_supervisor.cli.main import main

if __name__ == "__main__":
    name = sys.argv.pop(1)
    with applied(name):
        main()
