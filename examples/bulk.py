"""A dozen prompts through `bark-serve bulk`, and what came of them.

python examples/bulk.py [FOLDER_OR_S3] [MORE OPTIONS OF `bark-serve bulk` …]

Stop it at any time, and run it again: it goes on where it was. On a Ray cluster the same command
is the entry point of a job: `ray job submit -- python -m deployments.bulk --input … --output …`.
"""

import json
import subprocess
import sys
from pathlib import Path

output, options = (sys.argv[1] if len(sys.argv) > 1 else "bulk-out"), sys.argv[2:]

# One prompt a line; any field of a request may stand beside its text.
prompts = Path("prompts.jsonl")
with prompts.open("w") as file:
    for number in range(12):
        voice = "oak" if number % 2 else "heart"
        row = {"id": f"room-{number}", "text": f"Room {number} is ready.", "voice": voice}
        print(json.dumps(row), file=file)
    print(json.dumps({"id": "empty", "text": ""}), file=file)  # an error is a row, no end

command = [sys.executable, "-m", "deployments.bulk", "--input", str(prompts), "--output", output]
code = subprocess.run([*command, *options]).returncode
print(f"exit code {code}: 0 all is made, 1 some rows are errors or the job stopped")

if "://" not in output:
    import pyarrow.parquet as pq

    for row in pq.read_table(Path(output) / "manifest.parquet").to_pylist()[-3:]:
        print(row["id"], row["status"], row["uri"] or row["message"])
    print(f"listen: {Path(output) / 'report.html'}")
