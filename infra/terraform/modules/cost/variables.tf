# Those of the root module that cost something, under the same names: its .tfvars are read here too.
variable "zone_count" {
  description = "Availability zones."
  type        = number
  default     = 3

  validation {
    condition     = var.zone_count >= 1
    error_message = "zone_count must be at least 1."
  }
}

variable "nat_gateways" {
  description = "NAT gateways."
  type        = number
  default     = 1

  validation {
    condition     = var.nat_gateways >= 0
    error_message = "nat_gateways must not be negative."
  }
}

variable "interface_endpoints" {
  description = "AWS services reached inside the network."
  type        = set(string)
  default     = ["ecr.api", "ecr.dkr", "sts", "eks-auth", "xray", "aps-workspaces"]

  validation {
    condition     = alltrue([for name in var.interface_endpoints : length(name) > 0])
    error_message = "a service has a name."
  }
}

variable "system_nodes" {
  description = "Nodes that are always on."
  type = object({
    instance_types = optional(list(string), ["m7i.xlarge"])
    count          = optional(number, 2)
  })
  default = {}

  validation {
    condition     = var.system_nodes.count >= 1
    error_message = "system_nodes.count must be at least 1."
  }
}

variable "pools" {
  description = "Nodes of each stage and of the ingress."
  type = map(object({
    instance_types = list(string)
    gpus           = number
    max_nodes      = number
    busy_nodes     = number
    spot           = optional(bool, true)
    disk_gib       = optional(number, 100)
  }))

  validation {
    condition     = alltrue([for pool in var.pools : pool.busy_nodes <= pool.max_nodes])
    error_message = "busy_nodes must not be above max_nodes."
  }
}

# ── what only the table asks ─────────────────────────────────────────────────────────────────────
variable "hours" {
  description = "Hours of a month that the service is up."
  type        = number
  default     = 730

  validation {
    condition     = 0 < var.hours && var.hours <= 744
    error_message = "a month has at most 744 hours."
  }
}

variable "stored_gib" {
  description = "GiB in the three buckets: 2 hours of sound as mp3 are about 0.1."
  type        = number
  default     = 100

  validation {
    condition     = var.stored_gib >= 0
    error_message = "stored_gib must not be negative."
  }
}

variable "prices" {
  description = <<-EOT
    US dollars. instance_hour: on demand, by type. spot_fraction: of that, what spot capacity costs;
    spot_share: of busy hours, how many it carries. Both are assumptions: spot prices move.
  EOT
  type = object({
    instance_hour    = map(number)
    spot_fraction    = optional(number, 0.5)
    spot_share       = optional(number, 0.8)
    cluster_hour     = optional(number, 0.10)
    nat_hour         = optional(number, 0.045)
    endpoint_hour    = optional(number, 0.01)
    disk_gib_month   = optional(number, 0.08)
    stored_gib_month = optional(number, 0.023)
  })

  validation {
    condition     = alltrue([for price in values(var.prices.instance_hour) : price > 0]) && 0 <= var.prices.spot_share && var.prices.spot_share <= 1 && 0 < var.prices.spot_fraction && var.prices.spot_fraction <= 1
    error_message = "prices must be positive; spot_share and spot_fraction are shares."
  }
}
