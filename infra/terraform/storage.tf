# Three buckets, because three kinds of people write them: who trains (weights), who curates voices
# (presets), and the service itself (outputs). Names and ARNs are known before anything is made, so
# policies can be read in a plan.
locals {
  buckets = {
    for use in ["presets", "outputs", "weights"] :
    use => {
      name = "${var.name}-${use}-${local.account}"
      arn  = "arn:${local.partition}:s3:::${var.name}-${use}-${local.account}"
    }
  }
}

module "presets" {
  source = "./modules/bucket"

  name                     = local.buckets.presets.name
  arn                      = local.buckets.presets.arn
  kms_key_arn              = aws_kms_key.this["data"].arn
  old_versions_expire_days = 365 # a voice can not be made again
}

# The service decides what is written under which key, conditionally; that needs no old versions,
# but a deletion by mistake can be taken back for a while.
module "outputs" {
  source = "./modules/bucket"

  name                     = local.buckets.outputs.name
  arn                      = local.buckets.outputs.arn
  kms_key_arn              = aws_kms_key.this["data"].arn
  old_versions_expire_days = 7
  expires = var.outputs_expire_days == 0 ? {} : {
    for prefix in ["generations/", "jobs/", "queue/", "expiring/"] : prefix => var.outputs_expire_days
  }
}

module "weights" {
  source = "./modules/bucket"

  name                     = local.buckets.weights.name
  arn                      = local.buckets.weights.arn
  kms_key_arn              = aws_kms_key.this["data"].arn
  old_versions_expire_days = 90 # the time to go back to the model before
}

# ── the image ────────────────────────────────────────────────────────────────────────────────────
# Immutable tags: what a manifest names is what was tested.
resource "aws_ecr_repository" "this" {
  name                 = "${var.name}-serve"
  image_tag_mutability = "IMMUTABLE"

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.this["images"].arn
  }

  image_scanning_configuration {
    scan_on_push = true
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  repository = aws_ecr_repository.this.name
  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "what lost its tag"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 7 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "all but the last thirty releases"
        selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 30 }
        action       = { type = "expire" }
      },
    ]
  })
}
