# One replica a stage, and one more where decoding takes longest: a team's own service.
pools = {
  semantic = { instance_types = ["g5.xlarge", "g5.2xlarge"], gpus = 1, max_nodes = 2, busy_nodes = 1 }
  coarse   = { instance_types = ["g5.xlarge", "g5.2xlarge"], gpus = 1, max_nodes = 2, busy_nodes = 1 }
  fine     = { instance_types = ["g6.xlarge", "g6.2xlarge"], gpus = 1, max_nodes = 1, busy_nodes = 1 }
  codec    = { instance_types = ["g6.xlarge", "g6.2xlarge"], gpus = 1, max_nodes = 1, busy_nodes = 1 }
  ingress  = { instance_types = ["c7i.xlarge", "c7i.2xlarge"], gpus = 0, min_nodes = 1, max_nodes = 2, busy_nodes = 1, spot = false }
}
