# One key a concern, so that who may read sound can not read the cluster's secrets.
locals {
  # The services that use a key by themselves, beside the roles that IAM lets use it.
  key_services = {
    data    = []
    cluster = []
    images  = []
    logs    = ["logs.${var.region}.amazonaws.com"]
  }
}

resource "aws_kms_key" "this" {
  for_each = local.key_services

  description             = "${var.name}: ${each.key}"
  enable_key_rotation     = true
  deletion_window_in_days = 30

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid       = "IamDecides"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
        Action    = "kms:*"
        Resource  = "*" # in a key's own policy: this key
      }],
      [for service in each.value : {
        Sid       = "Service"
        Effect    = "Allow"
        Principal = { Service = service }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"]
        Resource  = "*"
        Condition = { ArnLike = { "kms:EncryptionContext:aws:logs:arn" = "arn:${local.partition}:logs:${var.region}:${local.account}:*" } }
      }],
    )
  })
}

resource "aws_kms_alias" "this" {
  for_each = local.key_services

  name          = "alias/${var.name}-${each.key}"
  target_key_id = aws_kms_key.this[each.key].key_id
}
