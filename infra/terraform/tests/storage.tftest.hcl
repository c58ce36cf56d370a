# What is kept: encrypted, versioned, tidied, over TLS alone; and the network it is reached by.
mock_provider "aws" {
  source = "./tests/mocks"
}

mock_provider "helm" {}

run "bucket" {
  module {
    source = "./modules/bucket"
  }

  variables {
    name                     = "bark-outputs-111122223333"
    arn                      = "arn:aws:s3:::bark-outputs-111122223333"
    kms_key_arn              = "arn:aws:kms:us-east-1:111122223333:key/1"
    old_versions_expire_days = 7
    expires                  = { "generations/" = 90 }
  }

  assert {
    condition = alltrue([
      for rule in aws_s3_bucket_server_side_encryption_configuration.this.rule :
      rule.apply_server_side_encryption_by_default[0].sse_algorithm == "aws:kms" && rule.apply_server_side_encryption_by_default[0].kms_master_key_id == var.kms_key_arn
    ])
    error_message = "encrypted with our key"
  }

  assert {
    condition     = aws_s3_bucket_versioning.this.versioning_configuration[0].status == "Enabled"
    error_message = "versioned"
  }

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls, aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls, aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "private, whatever anyone asks"
  }

  assert {
    condition = jsondecode(aws_s3_bucket_policy.this.policy).Statement == [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = ["arn:aws:s3:::bark-outputs-111122223333", "arn:aws:s3:::bark-outputs-111122223333/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
    error_message = "over TLS alone"
  }

  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.this.rule[0].noncurrent_version_expiration[0].noncurrent_days == 7 && aws_s3_bucket_lifecycle_configuration.this.rule[0].abort_incomplete_multipart_upload[0].days_after_initiation == 7
    error_message = "old versions and broken uploads go"
  }

  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.this.rule[1].filter[0].prefix == "generations/" && aws_s3_bucket_lifecycle_configuration.this.rule[1].expiration[0].days == 90
    error_message = "what expires, expires"
  }

  assert {
    condition     = !aws_s3_bucket.this.force_destroy
    error_message = "a bucket with something in it is not destroyed"
  }
}

run "everything" {
  assert {
    condition     = output.k8s_values.buckets == { presets = "bark-presets-111122223333", outputs = "bark-outputs-111122223333", weights = "bark-weights-111122223333" }
    error_message = "three buckets, and the overlay is told them"
  }

  assert {
    condition     = aws_ecr_repository.this.image_tag_mutability == "IMMUTABLE" && one(aws_ecr_repository.this.image_scanning_configuration).scan_on_push
    error_message = "what a tag names stays what it was, and is scanned"
  }

  # ── the network ────────────────────────────────────────────────────────────────────────────────
  assert {
    condition     = aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway" && toset(aws_vpc_endpoint.s3.route_table_ids) == toset(aws_route_table.nodes[*].id)
    error_message = "S3 is reached by a gateway from every node"
  }

  assert {
    condition = alltrue(flatten([
      for statement in jsondecode(aws_vpc_endpoint.s3.policy).Statement : [
        for resource in statement.Resource : can(regex(":s3:::(bark-(presets|outputs|weights)-111122223333|prod-us-east-1-starport-layer-bucket)(/\\*)?$", resource))
      ]
    ]))
    error_message = "the gateway leads to our buckets and to ECR's layers, and to nobody else's"
  }

  assert {
    condition     = length(setsubtract(["ecr.api", "ecr.dkr"], keys(aws_vpc_endpoint.interface))) == 0 && alltrue([for endpoint in aws_vpc_endpoint.interface : endpoint.private_dns_enabled])
    error_message = "images come from inside the network"
  }

  assert {
    condition     = alltrue([for rule in aws_security_group.endpoints.ingress : rule.from_port == 443 && rule.to_port == 443 && length(setsubtract(rule.cidr_blocks, local.node_cidrs)) == 0])
    error_message = "endpoints answer nodes, over TLS, and nobody else"
  }

  assert {
    condition     = length(distinct(concat(local.node_cidrs, local.public_cidrs, local.api_cidrs, local.endpoint_cidrs))) == 4 * var.zone_count
    error_message = "no two subnets share their addresses"
  }

  assert {
    condition     = toset(aws_eks_cluster.this.vpc_config[0].subnet_ids) == toset(aws_subnet.api[*].id) && output.k8s_values.cidrs.api == aws_subnet.api[*].cidr_block
    error_message = "the API server is where the network policy says"
  }

  assert {
    condition     = output.k8s_values.cidrs.s3 == sort(aws_vpc_endpoint.s3.cidr_blocks) && output.k8s_values.cidrs.endpoints == aws_subnet.endpoints[*].cidr_block
    error_message = "S3 and the endpoints are where the network policy says"
  }
}
