output "k8s_values" {
  description = "What k8s/overlays/production needs to know: `make k8s-values` writes it there."
  value = {
    region    = var.region
    namespace = var.namespace
    image     = aws_ecr_repository.this.repository_url
    buckets   = { presets = module.presets.name, outputs = module.outputs.name, weights = module.weights.name }
    service_accounts = {
      ingress   = module.ingress_role.service_account
      stage     = module.stage_role.service_account
      bulk      = module.bulk_role.service_account
      collector = module.collector_role.service_account
    }
    # what network policies allow by address
    cidrs = {
      s3        = sort(aws_vpc_endpoint.s3.cidr_blocks)
      api       = local.api_cidrs
      endpoints = local.endpoint_cidrs
    }
    operator_namespace   = local.operator_namespace
    monitoring_namespace = local.monitoring.namespace
    cache                = local.run_as
    pools = {
      for name, pool in var.pools : name => merge(
        { gpus = pool.gpus, min_nodes = pool.min_nodes, max_nodes = pool.max_nodes },
        module.pool[name].placement,
      )
    }
  }
}

output "cluster_name" {
  description = "For `aws eks update-kubeconfig --name`."
  value       = aws_eks_cluster.this.name
}

output "metrics_endpoint" {
  description = "Where to query the metrics (Amazon Managed Service for Prometheus)."
  value       = aws_prometheus_workspace.this.prometheus_endpoint
}
