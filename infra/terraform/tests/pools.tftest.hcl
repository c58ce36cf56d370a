# One pool a stage: where its pods go, what it may grow to, which capacity it takes first.
mock_provider "aws" {
  source = "./tests/mocks"
}

mock_provider "helm" {}

run "pools" {
  assert {
    condition     = toset(keys(module.pool)) == toset(["semantic", "coarse", "fine", "codec", "ingress"])
    error_message = "a pool a stage, and one for the ingress"
  }

  assert {
    condition = alltrue(flatten([for stage, pool in module.pool : [
      for group in values(pool.groups) :
      group.labels["bark.stage"] == stage && group.taints == [{ key = "bark.stage", value = stage, effect = "NO_SCHEDULE" }]
    ]]))
    error_message = "every group of a pool carries the stage as label and as taint"
  }

  assert {
    condition = alltrue([for stage in ["semantic", "coarse", "fine", "codec"] :
    toset([for group in values(module.pool[stage].groups) : group.capacity]) == toset(["SPOT", "ON_DEMAND"])])
    error_message = "a stage has a group on spot capacity, and one on demand to fall back to"
  }

  assert {
    condition     = [for group in values(module.pool["ingress"].groups) : group.capacity] == ["ON_DEMAND"]
    error_message = "the ingress is on demand alone"
  }

  assert {
    condition = alltrue(flatten([for stage in ["semantic", "coarse", "fine", "codec"] : [
      for group in values(module.pool[stage].groups) : group.min_size == 0
    ]]))
    error_message = "a stage's groups scale to zero"
  }

  assert {
    condition = alltrue(flatten([for stage, pool in module.pool : [
      for name, group in pool.groups : group.max_size == var.pools[stage].max_nodes && startswith(name, "bark-${stage}-")
    ]]))
    error_message = "a group grows to the pool's most, and is named after it"
  }

  assert {
    condition     = alltrue([for group in values(module.system_nodes.groups) : length(group.taints) == 0 && group.labels["bark.pool"] == "system" && group.min_size >= 2])
    error_message = "nodes for everything else are there, two of them, and take all pods"
  }

  # ── who scales them ────────────────────────────────────────────────────────────────────────────
  assert {
    condition = alltrue([
      for stage in ["semantic", "coarse", "fine", "codec"] : anytrue([
        for name in keys(module.pool[stage].groups) :
        can(regex(yamldecode(helm_release.cluster_autoscaler.values[0]).expanderPriorities["20"][0], "eks-${name}-2ecf0a1b"))
      ])
    ])
    error_message = "the autoscaler's first choice matches each stage's spot group, as EKS names it"
  }

  assert {
    condition     = yamldecode(helm_release.cluster_autoscaler.values[0]).extraArgs.expander == "priority"
    error_message = "without the priority expander the autoscaler takes either group"
  }

  assert {
    condition     = yamldecode(helm_release.nvidia_device_plugin.values[0]).tolerations[0].key == module.pool["semantic"].stage_label
    error_message = "the device plugin must run on tainted nodes, or they have no GPUs"
  }

  assert {
    condition     = alltrue([for stage, pool in output.k8s_values.pools : pool.max_nodes == var.pools[stage].max_nodes && pool.gpus == var.pools[stage].gpus])
    error_message = "the overlay is told each pool's size"
  }
}

run "nodes" {
  module {
    source = "./modules/pool"
  }

  variables {
    cluster        = "bark"
    name           = "bark-coarse"
    stage          = "coarse"
    instance_types = ["g6.xlarge"]
    gpus           = 1
    min_nodes      = 1
    max_nodes      = 3
    spot           = true
    disk_gib       = 100
    node_role_arn  = "arn:aws:iam::111122223333:role/node"
    subnet_ids     = ["subnet-1", "subnet-2"]
    cache_owner    = { uid = 10001, path = "/var/lib/bark-serve" }
  }

  assert {
    condition     = alltrue([for group in aws_eks_node_group.this : group.ami_type == "AL2023_x86_64_NVIDIA"])
    error_message = "nodes with GPUs need NVIDIA's driver"
  }

  assert {
    condition     = aws_eks_node_group.this["on-demand"].scaling_config[0].min_size == 1 && aws_eks_node_group.this["spot"].scaling_config[0].min_size == 0
    error_message = "what must always be there is on demand"
  }

  assert {
    condition     = aws_launch_template.this.metadata_options[0].http_tokens == "required" && aws_launch_template.this.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "pods must not get the node's credentials"
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.this.user_data), "install -d -m 0750 -o 10001 -g 10001 /var/lib/bark-serve")
    error_message = "the folder for weights belongs to the pods' user"
  }

  assert {
    condition     = alltrue([for device in aws_launch_template.this.block_device_mappings : device.ebs[0].encrypted == "true"])
    error_message = "disks are encrypted"
  }
}

run "a_pool_for_no_stage_is_refused" {
  command = plan

  variables {
    zone_count = 4
    pools = {
      semantic = { instance_types = ["g6.xlarge"], gpus = 1, max_nodes = 1, busy_nodes = 1 }
      corse    = { instance_types = ["g6.xlarge"], gpus = 1, max_nodes = 1, busy_nodes = 1 }
      fine     = { instance_types = ["g6.xlarge"], gpus = 1, max_nodes = 1, busy_nodes = 1 }
      codec    = { instance_types = ["g6.xlarge"], gpus = 1, max_nodes = 1, busy_nodes = 1 }
      ingress  = { instance_types = ["c7i.xlarge"], gpus = 0, max_nodes = 1, busy_nodes = 1 }
    }
  }

  expect_failures = [var.pools, var.zone_count]
}

run "what_can_not_be_is_refused" {
  command = plan

  variables {
    region              = "us-east"
    name                = "Bark"
    tags                = { "aws:x" = "y" }
    vpc_cidr            = "10.0.0.0/20"
    nat_gateways        = 2
    interface_endpoints = ["sts"]
    kubernetes_version  = "1.29"
    api_cidrs           = ["0.0.0.0/0"]
    admin_role_arns     = ["someone"]
    namespace           = "Bark"
    system_nodes        = { count = 1 }
    outputs_expire_days = 3
    log_retention_days  = 31
    charts              = { kuberay_operator = { repository = "https://ray-project.github.io/kuberay-helm", version = "latest" } }
  }

  expect_failures = [
    var.region, var.name, var.tags, var.vpc_cidr, var.nat_gateways, var.interface_endpoints,
    var.kubernetes_version, var.api_cidrs, var.admin_role_arns, var.namespace, var.system_nodes,
    var.outputs_expire_days, var.log_retention_days, var.charts,
  ]
}
