# The operator that turns RayService, RayJob and RayCronJob into pods. Alone in its namespace, which
# the service's network policy names: it must reach the head's dashboard.
locals {
  operator_namespace = "kuberay-system"
}

resource "helm_release" "kuberay_operator" {
  name             = "kuberay-operator"
  namespace        = local.operator_namespace
  create_namespace = true
  repository       = var.charts.kuberay_operator.repository
  chart            = "kuberay-operator"
  version          = var.charts.kuberay_operator.version

  values = [yamlencode({
    watchNamespace        = [var.namespace]
    leaderElectionEnabled = true
    nodeSelector          = { "bark.pool" = "system" }
    podSecurityContext    = { runAsNonRoot = true, seccompProfile = { type = "RuntimeDefault" } }
    featureGates = [
      { name = "RayServiceIncrementalUpgrade", enabled = true },
      { name = "RayJobDeletionPolicy", enabled = true },
      { name = "RayClusterStatusConditions", enabled = true },
      { name = "RayCronJob", enabled = true }, # off by default in 1.7
    ]
  })]

  depends_on = [module.system_nodes]
}
