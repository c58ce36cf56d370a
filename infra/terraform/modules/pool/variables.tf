variable "cluster" {
  description = "Name of the EKS cluster."
  type        = string

  validation {
    condition     = length(var.cluster) > 0
    error_message = "cluster must not be empty."
  }
}

variable "name" {
  description = "Prefix of the groups' names; -spot or -on-demand follows."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,40}$", var.name))
    error_message = "name must be lower-case letters, digits and hyphens."
  }
}

variable "stage" {
  description = "Value of the label and taint bark.stage; null: nodes for everything, without a taint."
  type        = string

  validation {
    condition     = var.stage == null || contains(["semantic", "coarse", "fine", "codec", "ingress"], coalesce(var.stage, "none"))
    error_message = "stage must be semantic, coarse, fine, codec, ingress or null."
  }
}

variable "instance_types" {
  description = "Of one size, so that a pod fits each."
  type        = list(string)

  validation {
    condition     = length(var.instance_types) > 0
    error_message = "instance_types must not be empty."
  }
}

variable "gpus" {
  description = "GPUs of a node; more than 0 takes the machine image with NVIDIA's driver."
  type        = number

  validation {
    condition     = var.gpus >= 0
    error_message = "gpus must not be negative."
  }
}

variable "min_nodes" {
  description = "Nodes that are always there, on demand."
  type        = number

  validation {
    condition     = var.min_nodes >= 0
    error_message = "min_nodes must not be negative."
  }
}

variable "max_nodes" {
  description = "Most nodes of each group."
  type        = number

  validation {
    condition     = var.max_nodes >= 1 && var.max_nodes >= var.min_nodes
    error_message = "max_nodes must be at least 1 and at least min_nodes."
  }
}

variable "spot" {
  description = "Also have a group on spot capacity."
  type        = bool
}

variable "disk_gib" {
  description = "Root volume, in GiB."
  type        = number

  validation {
    condition     = var.disk_gib >= 50
    error_message = "disk_gib must be at least 50."
  }
}

variable "node_role_arn" {
  description = "IAM role of the nodes."
  type        = string

  validation {
    condition     = strcontains(var.node_role_arn, ":role/")
    error_message = "node_role_arn must be the ARN of an IAM role."
  }
}

variable "subnet_ids" {
  description = "Subnets of the nodes, one a zone."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "nodes need subnets in two zones."
  }
}

variable "cache_owner" {
  description = "Who owns the folder for model weights, and where on the node it lies."
  type        = object({ uid = number, path = string })

  validation {
    condition     = var.cache_owner.uid > 0 && startswith(var.cache_owner.path, "/var/lib/")
    error_message = "cache_owner must not be root, and its path must lie below /var/lib."
  }
}
