# A pool a stage, so that each scales on its own and on the card that suits it: semantic and coarse
# decode token by token and want memory bandwidth (an A10G has twice an L4's), fine and codec
# compute in bursts and want the cheapest card with bf16. A pool without work has no nodes. Spot
# first: a call that is lost with its node is made again with the same bytes; where there is no
# spot, on-demand takes its place.
locals {
  # The user of the image and of every pod; owns the folder on each node that keeps model weights.
  run_as = { uid = 10001, path = "/var/lib/bark-serve" }
}

module "pool" {
  source   = "./modules/pool"
  for_each = var.pools

  cluster        = aws_eks_cluster.this.name
  name           = "${var.name}-${each.key}"
  stage          = each.key
  instance_types = each.value.instance_types
  gpus           = each.value.gpus
  min_nodes      = each.value.min_nodes
  max_nodes      = each.value.max_nodes
  spot           = each.value.spot
  disk_gib       = each.value.disk_gib
  node_role_arn  = aws_iam_role.node.arn
  subnet_ids     = aws_subnet.nodes[*].id
  cache_owner    = local.run_as

  depends_on = [aws_iam_role_policy_attachment.node]
}

# Adds and removes nodes. Of a pool's two groups it takes the one with `-spot`; a group that gives
# no node within five minutes is left alone for a while, and then the other's turn comes.
resource "helm_release" "cluster_autoscaler" {
  name       = "cluster-autoscaler"
  namespace  = "kube-system"
  repository = var.charts.cluster_autoscaler.repository
  chart      = "cluster-autoscaler"
  version    = var.charts.cluster_autoscaler.version

  values = [yamlencode({
    fullnameOverride = "cluster-autoscaler"
    awsRegion        = var.region
    autoDiscovery    = { clusterName = aws_eks_cluster.this.name }
    rbac             = { serviceAccount = { name = "cluster-autoscaler" } }
    extraArgs = {
      expander                    = "priority"
      max-node-provision-time     = "5m"
      scale-down-unneeded-time    = "5m"
      balance-similar-node-groups = false
    }
    expanderPriorities = { "20" = [".*-spot-.*"], "10" = [".*"] }
  })]

  depends_on = [module.system_nodes, module.cluster_autoscaler_role]
}

# Tells Kubernetes of the GPUs. It must run on our tainted nodes.
resource "helm_release" "nvidia_device_plugin" {
  name       = "nvidia-device-plugin"
  namespace  = "kube-system"
  repository = var.charts.nvidia_device_plugin.repository
  chart      = "nvidia-device-plugin"
  version    = var.charts.nvidia_device_plugin.version

  values = [yamlencode({
    nodeSelector = { (module.pool["semantic"].gpu_label) = "true" }
    affinity     = {}
    tolerations  = [{ key = module.pool["semantic"].stage_label, operator = "Exists", effect = "NoSchedule" }]
  })]

  depends_on = [module.system_nodes]
}
