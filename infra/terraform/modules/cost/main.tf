# Instances × prices, nothing else. No provider: it answers without an account.
locals {
  zones = var.zone_count

  # A pool's dollars a month: busy nodes, the share of them that spot capacity carries at its price.
  pools = {
    for name, pool in var.pools : name => {
      type     = pool.instance_types[0]
      busy     = pool.busy_nodes
      max      = pool.max_nodes
      hourly   = var.prices.instance_hour[pool.instance_types[0]]
      discount = pool.spot ? 1 - var.prices.spot_share * (1 - var.prices.spot_fraction) : 1
      disk     = pool.disk_gib
    }
  }
  node_hours = {
    for name, pool in local.pools : name => {
      busy = pool.busy * (pool.hourly * pool.discount * var.hours + pool.disk * var.prices.disk_gib_month * var.hours / 730)
      max  = pool.max * (pool.hourly * var.hours + pool.disk * var.prices.disk_gib_month * var.hours / 730)
    }
  }
  fixed = {
    system = var.system_nodes.count * (
      var.prices.instance_hour[var.system_nodes.instance_types[0]] * var.hours
      + 100 * var.prices.disk_gib_month * var.hours / 730
    )
    cluster = var.prices.cluster_hour * var.hours
    network = var.hours * (
      var.nat_gateways * var.prices.nat_hour
      + length(var.interface_endpoints) * local.zones * var.prices.endpoint_hour
    )
  }
  stored = var.stored_gib * var.prices.stored_gib_month

  fixed_total = sum(values(local.fixed))
  busy_total  = local.fixed_total + local.stored + sum([for cost in local.node_hours : cost.busy])
  max_total   = local.fixed_total + local.stored + sum([for cost in local.node_hours : cost.max])
  gpus        = sum([for name, pool in var.pools : pool.busy_nodes * pool.gpus])

  columns = concat(
    [for name in ["semantic", "coarse", "fine", "codec", "ingress"] :
    format("%s × %s: $%.0f", tostring(local.pools[name].busy), local.pools[name].type, local.node_hours[name].busy)],
    [
      format("$%.0f", local.fixed.system + local.fixed.cluster),
      format("$%.0f", local.fixed.network),
      format("$%.0f", local.stored),
      format("**$%.0f**", local.busy_total),
      format("$%.0f", local.max_total),
    ],
  )
}
