# Two ingresses in two zones, a NAT gateway in each, and room for four times an average hour.
nat_gateways = 3
pools = {
  semantic = { instance_types = ["g5.xlarge", "g5.2xlarge"], gpus = 1, max_nodes = 8, busy_nodes = 2 }
  coarse   = { instance_types = ["g5.xlarge", "g5.2xlarge"], gpus = 1, max_nodes = 12, busy_nodes = 3 }
  fine     = { instance_types = ["g6.xlarge", "g6.2xlarge"], gpus = 1, max_nodes = 4, busy_nodes = 1 }
  codec    = { instance_types = ["g6.xlarge", "g6.2xlarge"], gpus = 1, max_nodes = 4, busy_nodes = 1 }
  ingress  = { instance_types = ["c7i.xlarge", "c7i.2xlarge"], gpus = 0, min_nodes = 2, max_nodes = 4, busy_nodes = 2, spot = false }
}
