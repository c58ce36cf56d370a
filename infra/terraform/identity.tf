# One role a component, bound to its service account by Pod Identity. Ray's head has none: it
# schedules, and touches no data. An action on a bucket needs its key as well; the key is usable
# through S3 alone.
locals {
  cluster = { name = aws_eks_cluster.this.name, arn = aws_eks_cluster.this.arn }
  via_s3  = { StringEquals = { "kms:ViaService" = ["s3.${var.region}.amazonaws.com"] } }

  # s3:ListBucket: without it S3 answers a missing key with 403, and a missing voice would look
  # like a fault.
  read = {
    for use in ["presets", "outputs", "weights"] : use => [
      {
        sid       = "Read${title(use)}"
        actions   = ["s3:GetObject"]
        resources = ["${local.buckets[use].arn}/*"]
        condition = {}
      },
      {
        sid       = "List${title(use)}"
        actions   = ["s3:ListBucket"]
        resources = [local.buckets[use].arn]
        condition = {}
      },
    ]
  }
  write = {
    for use, keys in { outputs = "*", presets = "voices/*" } : use => [{
      sid       = "Write${title(use)}"
      actions   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
      resources = ["${local.buckets[use].arn}/${keys}"]
      condition = {}
    }]
  }
  decrypt = [{
    sid       = "Decrypt"
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.this["data"].arn]
    condition = local.via_s3
  }]
  encrypt = [{
    sid       = "Encrypt"
    actions   = ["kms:GenerateDataKey"]
    resources = [aws_kms_key.this["data"].arn]
    condition = local.via_s3
  }]
}

# The ingress opens the model for its numbers, its vocabulary and its digest; the networks are the
# stages'.
module "ingress_role" {
  source = "./modules/pod_role"

  name            = "${var.name}-ingress"
  cluster         = local.cluster
  namespace       = var.namespace
  service_account = "bark-ingress"
  statements = concat(
    local.read.presets,
    var.voice_uploads ? local.write.presets : [],
    local.read.outputs,
    local.write.outputs,
    local.read.weights,
    local.decrypt,
    local.encrypt,
  )
}

# Presets too: other Ray jobs call a stage by itself and name a voice.
module "stage_role" {
  source = "./modules/pod_role"

  name            = "${var.name}-stage"
  cluster         = local.cluster
  namespace       = var.namespace
  service_account = "bark-stage"
  statements      = concat(local.read.weights, local.read.presets, local.decrypt)
}

module "bulk_role" {
  source = "./modules/pod_role"

  name            = "${var.name}-bulk"
  cluster         = local.cluster
  namespace       = var.namespace
  service_account = "bark-bulk"
  statements = concat(
    local.read.weights,
    local.read.presets,
    local.read.outputs,
    local.write.outputs,
    local.decrypt,
    local.encrypt,
  )
}

module "collector_role" {
  source = "./modules/pod_role"

  name            = "${var.name}-collector"
  cluster         = local.cluster
  namespace       = var.namespace
  service_account = "bark-collector"
  statements = [{
    sid       = "Traces"
    actions   = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
    resources = ["*"] # X-Ray knows no finer
  }]
}

# ── the cluster's own ────────────────────────────────────────────────────────────────────────────
module "prometheus_role" {
  source = "./modules/pod_role"

  name            = "${var.name}-prometheus"
  cluster         = local.cluster
  namespace       = local.monitoring.namespace
  service_account = local.monitoring.service_account
  statements = [{
    sid       = "Metrics"
    actions   = ["aps:RemoteWrite"]
    resources = [aws_prometheus_workspace.this.arn]
  }]
}

module "cluster_autoscaler_role" {
  source = "./modules/pod_role"

  name            = "${var.name}-cluster-autoscaler"
  cluster         = local.cluster
  namespace       = "kube-system"
  service_account = "cluster-autoscaler"
  statements = [
    {
      sid = "Look"
      actions = [
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeAutoScalingInstances",
        "autoscaling:DescribeLaunchConfigurations",
        "autoscaling:DescribeScalingActivities",
        "autoscaling:DescribeTags",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeLaunchTemplateVersions",
        "ec2:GetInstanceTypesFromInstanceRequirements",
      ]
      resources = ["*"] # these know no resources
    },
    {
      # An empty group has no node to look at: its labels and taints are EKS's to tell.
      sid       = "LookAtEmptyGroups"
      actions   = ["eks:DescribeNodegroup"]
      resources = ["arn:${local.partition}:eks:${var.region}:${local.account}:nodegroup/${var.name}/*"]
    },
    {
      sid       = "Scale"
      actions   = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
      resources = ["arn:${local.partition}:autoscaling:${var.region}:${local.account}:autoScalingGroup:*"]
      condition = { StringEquals = { "aws:ResourceTag/k8s.io/cluster-autoscaler/${var.name}" = ["owned"] } }
    },
  ]
}

module "ebs_role" {
  source = "./modules/pod_role"

  name                = "${var.name}-ebs-csi"
  cluster             = local.cluster
  namespace           = "kube-system"
  service_account     = "ebs-csi-controller-sa"
  associate           = false # the addon does
  managed_policy_arns = ["arn:${local.partition}:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy"]
}
