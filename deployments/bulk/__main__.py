"""`python -m deployments.bulk …`: `bark-serve bulk`, as the entry point of a job on a cluster."""

import sys

from pipeline.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "bulk")
    main()
