# Decoding on cards with half as much memory bandwidth again; the rest as in medium, more of it.
nat_gateways = 3
system_nodes = { count = 3 }
pools = {
  semantic = { instance_types = ["g6e.xlarge", "g6e.2xlarge"], gpus = 1, max_nodes = 24, busy_nodes = 8 }
  coarse   = { instance_types = ["g6e.xlarge", "g6e.2xlarge"], gpus = 1, max_nodes = 36, busy_nodes = 12 }
  fine     = { instance_types = ["g6.xlarge", "g6.2xlarge"], gpus = 1, max_nodes = 16, busy_nodes = 5 }
  codec    = { instance_types = ["g6.xlarge", "g6.2xlarge"], gpus = 1, max_nodes = 12, busy_nodes = 4 }
  ingress  = { instance_types = ["c7i.2xlarge", "c7i.4xlarge"], gpus = 0, min_nodes = 3, max_nodes = 12, busy_nodes = 4, spot = false }
}
