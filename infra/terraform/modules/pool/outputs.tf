output "stage_label" {
  description = "Key of the label and of the taint that make a pool."
  value       = local.stage_label
}

output "gpu_label" {
  description = "Key of the label on nodes with GPUs."
  value       = local.gpu_label
}

output "placement" {
  description = "What a pod needs to run here, in Kubernetes' words: these labels to ask for, these taints to bear."
  value = {
    labels = local.labels
    taints = var.stage == null ? [] : [{ key = local.stage_label, value = var.stage, effect = "NoSchedule" }]
  }
}

output "groups" {
  description = "Each node group as it was made."
  value = {
    for key, group in aws_eks_node_group.this : group.node_group_name => {
      capacity = group.capacity_type
      labels   = group.labels
      taints   = [for taint in group.taint : { key = taint.key, value = taint.value, effect = taint.effect }]
      min_size = group.scaling_config[0].min_size
      max_size = group.scaling_config[0].max_size
    }
  }
}
