variable "name" {
  description = "Name of the bucket, of its own in all of AWS."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.name))
    error_message = "a bucket's name is 3 to 63 lower-case letters, digits and hyphens."
  }
}

variable "arn" {
  description = "ARN of the bucket, as the policies of those who use it say it."
  type        = string

  validation {
    condition     = endswith(var.arn, ":s3:::${var.name}")
    error_message = "arn must be that of the bucket `name`."
  }
}

variable "kms_key_arn" {
  description = "Key that encrypts the objects."
  type        = string

  validation {
    condition     = strcontains(var.kms_key_arn, ":key/")
    error_message = "kms_key_arn must be the ARN of a key."
  }
}

variable "old_versions_expire_days" {
  description = "How long an object that was replaced or deleted can be had back."
  type        = number
  default     = 30

  validation {
    condition     = var.old_versions_expire_days >= 1
    error_message = "old_versions_expire_days must be at least 1."
  }
}

variable "expires" {
  description = "Prefix → days after which what lies below it is deleted."
  type        = map(number)
  default     = {}

  validation {
    condition     = alltrue([for prefix, days in var.expires : endswith(prefix, "/") && days >= 1])
    error_message = "expires maps prefixes that end in / to at least one day."
  }
}
