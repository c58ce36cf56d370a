# Metrics go to a workspace that outlives the cluster, by a Prometheus inside it, whose operator
# also brings the kinds ServiceMonitor, PodMonitor and PrometheusRule; traces to X-Ray, by the
# collector beside the service.
locals {
  monitoring = { namespace = "monitoring", service_account = "prometheus" }
}

resource "aws_prometheus_workspace" "this" {
  alias       = var.name
  kms_key_arn = aws_kms_key.this["logs"].arn

  logging_configuration {
    log_group_arn = "${aws_cloudwatch_log_group.prometheus.arn}:*"
  }
}

resource "aws_cloudwatch_log_group" "prometheus" {
  name              = "/${var.name}/prometheus"
  retention_in_days = var.log_retention_days
  kms_key_id        = aws_kms_key.this["logs"].arn
}

resource "helm_release" "kube_prometheus_stack" {
  name             = "monitoring"
  namespace        = local.monitoring.namespace
  create_namespace = true
  repository       = var.charts.kube_prometheus_stack.repository
  chart            = "kube-prometheus-stack"
  version          = var.charts.kube_prometheus_stack.version

  values = [yamlencode({
    fullnameOverride = "monitoring"
    prometheus = {
      serviceAccount = { name = local.monitoring.service_account }
      prometheusSpec = {
        nodeSelector = { "bark.pool" = "system" }
        # what our own manifests bring, not the chart's alone
        serviceMonitorSelectorNilUsesHelmValues = false
        podMonitorSelectorNilUsesHelmValues     = false
        ruleSelectorNilUsesHelmValues           = false
        remoteWrite = [{
          url   = "${aws_prometheus_workspace.this.prometheus_endpoint}api/v1/remote_write"
          sigv4 = { region = var.region }
        }]
      }
    }
    # dashboards are ConfigMaps with this label, in any namespace
    grafana = { sidecar = { dashboards = { enabled = true, label = "grafana_dashboard", searchNamespace = "ALL" } } }
  })]

  depends_on = [module.system_nodes, aws_eks_addon.this]
}
