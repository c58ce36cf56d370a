# Nodes of one kind: a group on spot capacity, a group on demand, or both, of the same labels and
# taints. Both may grow to max_nodes; how many pods there are (Ray's maxReplicas) bounds their sum.
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

locals {
  stage_label = "bark.stage"
  gpu_label   = "bark.gpu"
  capacities  = var.spot ? { spot = "SPOT", on-demand = "ON_DEMAND" } : { on-demand = "ON_DEMAND" }
  labels = merge(
    var.stage == null ? { "bark.pool" = "system" } : { (local.stage_label) = var.stage },
    var.gpus > 0 ? { (local.gpu_label) = "true" } : {},
  )
}

resource "aws_launch_template" "this" {
  name = var.name

  # Pods get credentials from Pod Identity; one hop keeps them from the node's own.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_size           = var.disk_gib
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }

  # The folder that keeps model weights between pods, before any pod asks for it.
  user_data = base64encode(join("\n", [
    "MIME-Version: 1.0",
    "Content-Type: multipart/mixed; boundary=\"//\"",
    "",
    "--//",
    "Content-Type: text/x-shellscript; charset=\"us-ascii\"",
    "",
    "#!/bin/sh",
    "install -d -m 0750 -o ${var.cache_owner.uid} -g ${var.cache_owner.uid} ${var.cache_owner.path}",
    "",
    "--//--",
    "",
  ]))

  tag_specifications {
    resource_type = "instance"
    tags          = { Name = var.name }
  }
}

resource "aws_eks_node_group" "this" {
  for_each = local.capacities

  cluster_name    = var.cluster
  node_group_name = "${var.name}-${each.key}"
  node_role_arn   = var.node_role_arn
  subnet_ids      = var.subnet_ids
  ami_type        = var.gpus > 0 ? "AL2023_x86_64_NVIDIA" : "AL2023_x86_64_STANDARD"
  capacity_type   = each.value
  instance_types  = var.instance_types
  labels          = local.labels

  launch_template {
    id      = aws_launch_template.this.id
    version = aws_launch_template.this.latest_version
  }

  scaling_config {
    # What must always be there is on demand.
    min_size     = each.value == "ON_DEMAND" ? var.min_nodes : 0
    max_size     = var.max_nodes
    desired_size = each.value == "ON_DEMAND" ? var.min_nodes : 0
  }

  dynamic "taint" {
    for_each = var.stage == null ? [] : [var.stage]
    content {
      key    = local.stage_label
      value  = taint.value
      effect = "NO_SCHEDULE"
    }
  }

  node_repair_config {
    enabled = true
  }

  update_config {
    max_unavailable = 1
  }

  lifecycle {
    ignore_changes = [scaling_config[0].desired_size] # the autoscaler's
  }
}
