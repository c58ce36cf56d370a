"""How many replicas a load needs: stage costs from a benchmark, a simulation, and a search."""
