variable "name" {
  description = "Name of the role."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,60}$", var.name))
    error_message = "name must be lower-case letters, digits and hyphens."
  }
}

variable "cluster" {
  description = "Name and ARN of the EKS cluster whose pods may take the role."
  type        = object({ name = string, arn = string })

  validation {
    condition     = strcontains(var.cluster.arn, ":cluster/")
    error_message = "cluster.arn must be the ARN of an EKS cluster."
  }
}

variable "namespace" {
  description = "Namespace of the service account."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace must be a DNS label."
  }
}

variable "service_account" {
  description = "The service account; pods that run under it have the role."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.service_account))
    error_message = "service_account must be a DNS label."
  }
}

variable "associate" {
  description = "Bind role and account here; false where an addon does that itself."
  type        = bool
  default     = true
}

variable "managed_policy_arns" {
  description = "AWS's own policies, for AWS's own drivers."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.managed_policy_arns : can(regex("^arn:[a-z-]+:iam::aws:policy/", arn))])
    error_message = "managed policies are AWS's own."
  }
}

variable "statements" {
  description = "What the role may do: condition is operator → key → values."
  type = list(object({
    sid       = string
    actions   = list(string)
    resources = list(string)
    condition = optional(map(map(list(string))), {})
  }))
  default = []

  validation {
    condition     = !anytrue(flatten([for statement in var.statements : [for action in statement.actions : strcontains(action, "*")]]))
    error_message = "actions are named one by one, without wildcards."
  }
  validation {
    # Those that AWS lets nobody bind to a resource.
    condition = alltrue(flatten([
      for statement in var.statements : [
        for action in statement.actions :
        can(regex("^(autoscaling:Describe|ec2:Describe|ec2:GetInstanceTypesFromInstanceRequirements$|xray:Put)", action))
      ] if contains(statement.resources, "*")
    ]))
    error_message = "a resource is named, unless the action knows none."
  }
}
