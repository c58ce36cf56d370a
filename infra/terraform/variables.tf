# ── where, and under which name ──────────────────────────────────────────────────────────────────
variable "region" {
  description = "AWS region of everything."
  type        = string
  default     = "us-east-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must look like us-east-1."
  }
}

variable "name" {
  description = "Prefix of every name; also the cluster's own. Buckets append the account's number."
  type        = string
  default     = "bark"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 20 lower-case letters, digits and hyphens, and begin with a letter."
  }
}

variable "tags" {
  description = "Tags on everything, beside project and managed-by."
  type        = map(string)
  default     = {}

  validation {
    condition     = !anytrue([for key in keys(var.tags) : startswith(key, "aws:")])
    error_message = "tags that begin with aws: are AWS's own."
  }
}

# ── network ──────────────────────────────────────────────────────────────────────────────────────
variable "vpc_cidr" {
  description = "Address range of the network; a /16 gives each zone 4,091 addresses for pods."
  type        = string
  default     = "10.64.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && try(tonumber(split("/", var.vpc_cidr)[1]), 0) == 16
    error_message = "vpc_cidr must be an IPv4 /16, such as 10.64.0.0/16."
  }
}

variable "zone_count" {
  description = "Availability zones. Two survive the loss of one; more find GPUs where two have none."
  type        = number
  default     = 3

  validation {
    condition     = contains([2, 3], var.zone_count)
    error_message = "zone_count must be 2 or 3."
  }
}

variable "nat_gateways" {
  description = "NAT gateways: 1 is cheaper, one a zone (as many as zone_count) outlives the loss of any."
  type        = number
  default     = 1

  validation {
    condition     = var.nat_gateways == 1 || var.nat_gateways == var.zone_count
    error_message = "nat_gateways must be 1 or zone_count."
  }
}

variable "interface_endpoints" {
  description = "AWS services reached inside the network, beside S3 (a gateway, which costs nothing)."
  type        = set(string)
  default     = ["ecr.api", "ecr.dkr", "sts", "eks-auth", "xray", "aps-workspaces"]

  validation {
    condition     = length(setsubtract(["ecr.api", "ecr.dkr", "eks-auth", "xray"], var.interface_endpoints)) == 0
    error_message = "ecr.api and ecr.dkr (images), eks-auth (pods' credentials) and xray (the collector, whose network policy allows nothing else) are needed."
  }
}

# ── cluster ──────────────────────────────────────────────────────────────────────────────────────
variable "kubernetes_version" {
  description = "Version of EKS."
  type        = string
  default     = "1.34"

  validation {
    condition     = can(regex("^1\\.(3[3-9]|[4-9][0-9])$", var.kubernetes_version))
    error_message = "kubernetes_version must be 1.33 or newer."
  }
}

variable "api_cidrs" {
  description = "Addresses that may reach the Kubernetes API from outside; none: it is private."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.api_cidrs : can(cidrnetmask(cidr)) && !endswith(cidr, "/0")])
    error_message = "api_cidrs must be IPv4 ranges, and not the whole internet."
  }
}

variable "admin_role_arns" {
  description = "IAM roles that administer the cluster, beside whoever creates it."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.admin_role_arns : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:role/.+$", arn))])
    error_message = "admin_role_arns must be ARNs of IAM roles."
  }
}

variable "namespace" {
  description = "Kubernetes namespace of the service; pods' roles are bound to it."
  type        = string
  default     = "bark"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace must be a DNS label."
  }
}

variable "system_nodes" {
  description = "Always-on nodes for what must not be interrupted: Ray's head, Redis, the operators, monitoring."
  type = object({
    instance_types = optional(list(string), ["m7i.xlarge"])
    count          = optional(number, 2)
  })
  default = {}

  validation {
    condition     = var.system_nodes.count >= 2 && length(var.system_nodes.instance_types) > 0
    error_message = "system_nodes needs an instance type, and two nodes so that one may be replaced."
  }
}

variable "pools" {
  description = <<-EOT
    Nodes of each stage and of the ingress. One worker pod of Ray takes one node.
    instance_types: of one family, so of one card (another card rounds otherwise, and the same seed
    would sound otherwise on another replica); the cheapest first, larger ones find spot more often.
    gpus: on each node, 0 for CPU. min_nodes, max_nodes: in all. spot: take spot capacity first and
    on-demand where there is none; else on-demand alone. busy_nodes: on average, for the cost table.
  EOT
  type = map(object({
    instance_types = list(string)
    gpus           = number
    min_nodes      = optional(number, 0)
    max_nodes      = number
    busy_nodes     = number
    spot           = optional(bool, true)
    disk_gib       = optional(number, 100)
  }))

  validation {
    condition     = toset(keys(var.pools)) == toset(["semantic", "coarse", "fine", "codec", "ingress"])
    error_message = "pools are semantic, coarse, fine, codec and ingress, no more and no fewer."
  }
  validation {
    condition = alltrue([
      for pool in var.pools :
      0 <= pool.min_nodes && pool.min_nodes <= pool.busy_nodes && pool.busy_nodes <= pool.max_nodes && pool.max_nodes >= 1
    ])
    error_message = "each pool needs 0 <= min_nodes <= busy_nodes <= max_nodes, and max_nodes at least 1."
  }
  validation {
    condition = alltrue([
      for name, pool in var.pools : name == "ingress" ? pool.gpus == 0 : contains([1, 2, 4, 8], pool.gpus)
    ])
    error_message = "the ingress has no GPU; a stage's node has 1, 2, 4 or 8."
  }
  validation {
    condition = alltrue([
      for pool in var.pools : length(distinct([for type in pool.instance_types : split(".", type)[0]])) <= 1
    ])
    error_message = "the instance types of a pool are of one family, so of one card."
  }
  validation {
    condition     = alltrue([for pool in var.pools : length(pool.instance_types) > 0 && pool.disk_gib >= 50])
    error_message = "each pool needs an instance type and a disk of at least 50 GiB (the image alone takes 10)."
  }
}

# ── data ─────────────────────────────────────────────────────────────────────────────────────────
variable "outputs_expire_days" {
  description = "Generations and jobs are deleted after so many days; 0 keeps them."
  type        = number
  default     = 90

  validation {
    condition     = var.outputs_expire_days == 0 || var.outputs_expire_days >= 8
    error_message = "outputs_expire_days must be 0, or at least 8: ended jobs are remembered for 7 days."
  }
}

variable "voice_uploads" {
  description = "Let the ingress write and delete voice presets (POST and DELETE /v1/audio/voices), not only read them."
  type        = bool
  default     = false
}

variable "log_retention_days" {
  description = "How long the control plane's and the network's logs are kept."
  type        = number
  default     = 365

  validation {
    condition     = contains([30, 60, 90, 120, 180, 365, 400, 731, 1827, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one that CloudWatch offers, from 30 on."
  }
}

# ── charts ───────────────────────────────────────────────────────────────────────────────────────
variable "charts" {
  description = "Helm charts: where each comes from, and its exact version."
  type = object({
    kuberay_operator      = optional(object({ repository = string, version = string }), { repository = "https://ray-project.github.io/kuberay-helm", version = "1.7.0" })
    cluster_autoscaler    = optional(object({ repository = string, version = string }), { repository = "https://kubernetes.github.io/autoscaler", version = "9.50.1" })
    nvidia_device_plugin  = optional(object({ repository = string, version = string }), { repository = "https://nvidia.github.io/k8s-device-plugin", version = "0.17.4" })
    kube_prometheus_stack = optional(object({ repository = string, version = string }), { repository = "https://prometheus-community.github.io/helm-charts", version = "77.6.1" })
  })
  default = {}

  validation {
    condition = alltrue([
      for chart in values(var.charts) :
      can(regex("^(https|oci)://", chart.repository)) && can(regex("^[0-9]+\\.[0-9]+\\.[0-9]+$", chart.version))
    ])
    error_message = "each chart needs a repository at https:// or oci://, and an exact version."
  }
}
