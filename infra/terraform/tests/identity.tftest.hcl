# Who may do what: each component what it needs, named action by action, and no more.
mock_provider "aws" {
  source = "./tests/mocks"
}

mock_provider "helm" {}

run "roles" {
  # ── the ingress reads presets and writes outputs ───────────────────────────────────────────────
  assert {
    condition = jsonencode({
      for statement in jsondecode(module.ingress_role.policy).Statement : statement.Sid => [sort(statement.Action), statement.Resource]
      }) == jsonencode({
      ReadPresets  = [["s3:GetObject"], ["arn:aws:s3:::bark-presets-111122223333/*"]]
      ListPresets  = [["s3:ListBucket"], ["arn:aws:s3:::bark-presets-111122223333"]]
      ReadOutputs  = [["s3:GetObject"], ["arn:aws:s3:::bark-outputs-111122223333/*"]]
      ListOutputs  = [["s3:ListBucket"], ["arn:aws:s3:::bark-outputs-111122223333"]]
      WriteOutputs = [["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:PutObject"], ["arn:aws:s3:::bark-outputs-111122223333/*"]]
      ReadWeights  = [["s3:GetObject"], ["arn:aws:s3:::bark-weights-111122223333/*"]]
      ListWeights  = [["s3:ListBucket"], ["arn:aws:s3:::bark-weights-111122223333"]]
      Decrypt      = [["kms:Decrypt"], [aws_kms_key.this["data"].arn]]
      Encrypt      = [["kms:GenerateDataKey"], [aws_kms_key.this["data"].arn]]
    })
    error_message = "the ingress reads presets and weights, reads and writes outputs, and does nothing else"
  }

  # ── a stage reads ──────────────────────────────────────────────────────────────────────────────
  assert {
    condition = jsonencode({
      for statement in jsondecode(module.stage_role.policy).Statement : statement.Sid => [statement.Action, statement.Resource]
      }) == jsonencode({
      ReadWeights = [["s3:GetObject"], ["arn:aws:s3:::bark-weights-111122223333/*"]]
      ListWeights = [["s3:ListBucket"], ["arn:aws:s3:::bark-weights-111122223333"]]
      ReadPresets = [["s3:GetObject"], ["arn:aws:s3:::bark-presets-111122223333/*"]]
      ListPresets = [["s3:ListBucket"], ["arn:aws:s3:::bark-presets-111122223333"]]
      Decrypt     = [["kms:Decrypt"], [aws_kms_key.this["data"].arn]]
    })
    error_message = "a stage reads weights and presets, and writes nothing"
  }

  assert {
    condition = alltrue(flatten([
      for policy in [module.ingress_role.policy, module.stage_role.policy, module.bulk_role.policy] : [
        for statement in jsondecode(policy).Statement :
        try(statement.Condition.StringEquals["kms:ViaService"], []) == ["s3.us-east-1.amazonaws.com"] if startswith(statement.Action[0], "kms:")
      ]
    ]))
    error_message = "the key of the data is used through S3 alone"
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(module.bulk_role.policy).Statement :
      !contains(statement.Action, "s3:PutObject") || statement.Resource == ["arn:aws:s3:::bark-outputs-111122223333/*"]
    ])
    error_message = "bulk work writes to outputs alone"
  }

  # ── nobody does everything ─────────────────────────────────────────────────────────────────────
  assert {
    condition = alltrue(flatten([
      for policy in [
        module.ingress_role.policy, module.stage_role.policy, module.bulk_role.policy, module.collector_role.policy,
        module.prometheus_role.policy, module.cluster_autoscaler_role.policy,
        ] : [for statement in jsondecode(policy).Statement : [
          alltrue([for action in statement.Action : !strcontains(action, "*")]),
          alltrue([for resource in statement.Resource : resource != "*"]) || contains(["Traces", "Look"], statement.Sid),
      ]]
    ]))
    error_message = "no wildcard in an action, and none in place of a resource but where AWS knows no other"
  }

  assert {
    condition = alltrue([
      for statement in jsondecode(module.cluster_autoscaler_role.policy).Statement :
      try(statement.Condition.StringEquals["aws:ResourceTag/k8s.io/cluster-autoscaler/bark"] == ["owned"], false)
      if contains(statement.Action, "autoscaling:SetDesiredCapacity")
    ])
    error_message = "the autoscaler scales this cluster's groups alone"
  }

  assert {
    condition     = output.k8s_values.service_accounts == { ingress = "bark-ingress", stage = "bark-stage", bulk = "bark-bulk", collector = "bark-collector" }
    error_message = "the overlay is told the accounts that have roles; Ray's head has none"
  }

  # ── the cluster ────────────────────────────────────────────────────────────────────────────────
  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_private_access && !aws_eks_cluster.this.vpc_config[0].endpoint_public_access
    error_message = "the API is private unless asked otherwise"
  }

  assert {
    condition     = aws_eks_cluster.this.access_config[0].authentication_mode == "API" && aws_eks_cluster.this.encryption_config[0].resources == toset(["secrets"])
    error_message = "rights come from IAM, and secrets are encrypted"
  }

  assert {
    condition     = length(setsubtract(["api", "audit", "authenticator", "controllerManager", "scheduler"], aws_eks_cluster.this.enabled_cluster_log_types)) == 0
    error_message = "the control plane logs everything"
  }

  assert {
    condition     = jsondecode(aws_eks_addon.this["vpc-cni"].configuration_values).enableNetworkPolicy == "true"
    error_message = "without this, EKS keeps no network policy"
  }

  assert {
    condition     = alltrue([for key in aws_kms_key.this : key.enable_key_rotation])
    error_message = "keys rotate"
  }

  # ── the operator ───────────────────────────────────────────────────────────────────────────────
  assert {
    condition = alltrue([
      for gate in ["RayServiceIncrementalUpgrade", "RayCronJob"] :
      contains(yamldecode(helm_release.kuberay_operator.values[0]).featureGates, { name = gate, enabled = true })
    ])
    error_message = "the overlays use incremental upgrades and RayCronJob"
  }

  assert {
    condition     = helm_release.kuberay_operator.version == "1.7.0" && yamldecode(helm_release.kuberay_operator.values[0]).watchNamespace == [var.namespace]
    error_message = "the operator is the release that the manifests are written for, and watches the service's namespace"
  }
}

run "voices_may_be_uploaded_where_that_is_asked_for" {
  variables {
    voice_uploads = true
  }

  assert {
    condition = anytrue([
      for statement in jsondecode(module.ingress_role.policy).Statement :
      contains(statement.Action, "s3:PutObject") && statement.Resource == ["arn:aws:s3:::bark-presets-111122223333/voices/*"]
    ])
    error_message = "the ingress writes voices, and nothing else of the presets"
  }
}
