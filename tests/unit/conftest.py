import sys
from pathlib import Path

# test folders are no packages (one named `pipeline` would shadow ours), so fakes are found by path
sys.path.insert(0, str(Path(__file__).parent))
